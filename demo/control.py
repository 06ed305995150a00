"""Speaks to omactl and to the daemon as any client would: HTTP, a token, a unix socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

__all__ = ["FINAL", "Control", "Volumes"]

FINAL = ("completed", "failed", "cancelled")
POLL = 0.1
ONE_EACH = httpx2.Limits(max_keepalive_connections=0)  # a restarted server must not be met on an old connection


class Control:
    """omactl's API with the admin token."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=30, limits=ONE_EACH)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: str | int) -> Any:
        return self._answer(self._http.get(path, params=query))

    def post(self, path: str, body: object) -> Any:
        return self._answer(self._http.post(path, json=body))

    def replicate(self, machine: str, **options: object) -> str:
        """Start a replication; the job's id."""
        job: str = self.post("/api/v1/replications", {"vm_name": machine, **options})["job_id"]
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        page: dict[str, Any] = self.get(f"/api/v1/jobs/{job_id}")
        return page

    def wait(
        self,
        job_id: str,
        *,
        until: Callable[[dict[str, Any]], bool],
        seen: Callable[[dict[str, Any]], None],
        limit: float,
    ) -> dict[str, Any]:
        """The job once `until` holds for it; every state that was seen goes to `seen`."""
        deadline = time.monotonic() + limit
        while True:
            page = self.job(job_id)
            seen(page)
            if until(page):
                return page
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"job {job_id} is still {page['status']} after {limit:.0f} s: {page.get('current_step')}"
                )
            time.sleep(POLL)

    @staticmethod
    def _answer(response: httpx2.Response) -> Any:
        if response.is_error:
            problem = response.json()
            raise SystemExit(f"{response.request.method} {response.request.url.path}: {problem['detail']}")
        return response.json()


class Volumes:
    """The daemon's volume API over its unix socket."""

    def __init__(self, path: Path) -> None:
        transport = httpx2.HTTPTransport(uds=str(path), limits=ONE_EACH)
        self._http = httpx2.Client(transport=transport, base_url="http://omavol", timeout=30)

    def close(self) -> None:
        self._http.close()

    def volume(self, volume_id: str) -> dict[str, Any]:
        page: dict[str, Any] = self._http.get(f"/api/v1/volumes/{volume_id}").raise_for_status().json()
        return page
