"""One HTTP exchange with an omavol API: typed body in, typed answer out, every failure a ProblemError.

Reads are tried again (at most `ATTEMPTS` times, with jittered waits below `RETRY_WAIT_LIMIT`) when no answer came or
the answer was 503. Anything else is tried again only when the connection was refused, that is, before it was sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
import msgspec

from omavol.client.problem import BadAnswer, ProblemError, Unreachable, problem_of
from omavol.schema.common import Problem

__all__ = ["ATTEMPTS", "RETRY_WAIT_LIMIT", "HttpClient"]

T = TypeVar("T")
ATTEMPTS = 4
RETRY_WAIT = 0.1
RETRY_WAIT_LIMIT = 2.0
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class HttpClient:
    """A connection pool to one API; `peer` names it in errors. Use from one event loop, by any number of tasks."""

    def __init__(
        self,
        base_url: str,
        *,
        peer: str,
        unix: str | None = None,
        token: str | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
    ) -> None:
        self.peer = peer
        self._timeout = httpx2.Timeout(timeout, connect=connect_timeout)
        self._http = httpx2.AsyncClient(
            base_url=base_url,
            transport=httpx2.AsyncHTTPTransport(uds=unix, trust_env=False),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=self._timeout,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def read(
        self, path: str, answer: type[T], *, params: Mapping[str, str | int] | None = None, timeout: float | None = None
    ) -> T:
        """GET and decode; tried again when there was no answer."""
        body = await self._persist("GET", path, reads=True, params=dict(params or {}), timeout=timeout)
        return self._decode(body, answer)

    async def act(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        body: msgspec.Struct | dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> T:
        """Send a request that changes something; never sent twice."""
        sent = dict(headers or {})
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        answered = await self._persist(method, path, reads=False, content=content, headers=sent, timeout=timeout)
        return self._decode(answered, answer)

    async def upload(self, path: str, content: AsyncIterator[bytes] | bytes) -> None:
        """PUT bytes as they come (application/octet-stream)."""
        await self._once("PUT", path, content=content, headers={"Content-Type": "application/octet-stream"})

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """GET bytes as they come; a stream that breaks off raises, it never just ends."""
        try:
            async with self._http.stream("GET", path) as response:
                if response.status_code >= 400:
                    raise problem_of(
                        response.status_code, response.headers.get("content-type", ""), await response.aread()
                    )
                async for piece in response.aiter_bytes():
                    yield piece
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error

    async def _persist(self, method: str, path: str, *, reads: bool, **request: Any) -> bytes:
        for attempt in range(1, ATTEMPTS):
            try:
                return await self._once(method, path, **request)
            except Unreachable as error:
                if not reads and error.may_have_acted:
                    raise
            except ProblemError as error:
                if not reads or error.problem.status != 503:
                    raise
            await asyncio.sleep(min(RETRY_WAIT * 3**attempt, RETRY_WAIT_LIMIT) * random.uniform(0.5, 1))
        return await self._once(method, path, **request)

    async def _once(self, method: str, path: str, *, timeout: float | None = None, **request: Any) -> bytes:
        limits = self._timeout if timeout is None else httpx2.Timeout(timeout, connect=self._timeout.connect)
        try:
            response = await self._http.request(method, path, timeout=limits, **request)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        except httpx2.DecodingError as error:
            raise self._unusable(str(error)) from error
        if response.status_code >= 400:
            raise problem_of(response.status_code, response.headers.get("content-type", ""), response.content)
        return response.content

    def _decode(self, body: bytes, answer: type[T]) -> T:
        if answer is type(None):
            return None
        try:
            return msgspec.json.decode(body, type=answer)
        except msgspec.DecodeError as error:
            raise self._unusable(str(error)) from error

    def _unreachable(self, error: httpx2.TransportError) -> Unreachable:
        cause = str(error) or type(error).__name__
        return Unreachable(
            Problem(
                status=503,
                code="unreachable",
                title="No answer",
                detail=f"{self.peer} did not answer: {cause}",
                advice=(f"Check that {self.peer} is running and that this process may reach it.",),
            ),
            may_have_acted=not isinstance(error, _NEVER_SENT),
        )

    def _unusable(self, why: str) -> BadAnswer:
        return BadAnswer(
            Problem(
                status=502,
                code="bad_answer",
                title="Unexpected answer",
                detail=f"{self.peer} answered what this version does not understand: {why}",
                advice=("Compare the versions on both sides.",),
            )
        )
