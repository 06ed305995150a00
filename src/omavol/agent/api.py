"""The routes of the source API: parse, call, answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from omavol import __version__
from omavol.agent.access import Gate
from omavol.agent.answers import answer, body, problem_answer
from omavol.agent.catalogue import discover
from omavol.agent.errors import AgentError
from omavol.agent.jobs import Jobs
from omavol.agent.state import State
from omavol.schema.common import now
from omavol.schema.source import (
    AgentHealth,
    AgentVersion,
    ChangeRate,
    Cleanup,
    Discover,
    Replicate,
    SourceStatus,
    Status,
)
from omavol.source.inventory import Inventory
from omavol.source.machine import Source

__all__ = ["FEATURES", "create_app"]

FEATURES = (
    "abandon",
    "bulk-progress",
    "cancel",
    "change-record",
    "commit",
    "digests",
    "events",
    "long-poll",
    "rate-limit",
)
WAIT_LIMIT = 60.0
HEARTBEAT = 15.0
CLEANUPS = ("delete_snapshot", "cleanup_all")


class Api:
    """One instance a process; every method is a route's handler."""

    def __init__(self, jobs: Jobs, state: State, source: Source, inventory: Inventory) -> None:
        self._jobs = jobs
        self._state = state
        self._source = source
        self._inventory = inventory
        self._started = time.monotonic()

    def routes(self) -> list[Route]:
        job = "/api/v1/replications/{job_id}"
        return [
            Route("/api/v1/health", self.health, methods=["GET"]),
            Route("/api/v1/version", self.version, methods=["GET"]),
            Route("/api/v1/discover", self.discover, methods=["POST"]),
            Route("/api/v1/replicate", self.replicate, methods=["POST"]),
            Route("/api/v1/replications", self.replications, methods=["GET"]),
            Route("/api/v1/progress/{job_id}", self.progress, methods=["GET"]),
            Route("/api/v1/status/{job_id}", self.status, methods=["GET"]),
            Route(job, self.one_job, methods=["GET", "DELETE", "PATCH"]),
            Route(f"{job}/commit", self.commit, methods=["POST"]),
            Route(f"{job}/abandon", self.abandon, methods=["POST"]),
            Route(f"{job}/disks/{{disk_id}}/digests", self.digests, methods=["GET"]),
            Route("/api/v1/events", self.events, methods=["GET"]),
            Route("/api/v1/cleanup", self.cleanup, methods=["POST"]),
        ]

    async def health(self, request: Request) -> Response:
        uptime = round(time.monotonic() - self._started, 3)
        return answer(AgentHealth(status="healthy", timestamp=now(), uptime=uptime))

    async def version(self, request: Request) -> Response:
        return answer(AgentVersion(agent_id=self._state.agent_id, version=__version__, features=list(FEATURES)))

    async def discover(self, request: Request) -> Response:
        wanted = await body(request, Discover, default=Discover())
        return answer(await asyncio.to_thread(discover, self._inventory, self._source, wanted))

    async def replicate(self, request: Request) -> Response:
        return answer(await self._jobs.replicate(await body(request, Replicate)))

    async def replications(self, request: Request) -> Response:
        since = _number(request, "since", 0)
        wait = min(_number(request, "wait", 0), int(WAIT_LIMIT))
        return answer(await self._jobs.news_since(since, wait))

    async def progress(self, request: Request) -> Response:
        return answer(self._jobs.progress(request.path_params["job_id"]))

    async def status(self, request: Request) -> Response:
        progress = self._jobs.progress(request.path_params["job_id"])
        running = progress.status in (SourceStatus.PREPARING, SourceStatus.RUNNING)
        return answer(
            Status(
                job_id=progress.job_id,
                status="running" if running else progress.status.value,
                progress_percent=progress.percentage,
                current_operation=progress.current_operation,
                start_time=progress.timing.start_time,
                last_update=progress.timing.last_update,
                vm_path=progress.vm_info.path,
            )
        )

    async def one_job(self, request: Request) -> Response:
        """One path, one route: two would give a wrong Allow header."""
        job_id = request.path_params["job_id"]
        match request.method:
            case "DELETE":
                self._jobs.cancel(job_id)
            case "PATCH":
                self._jobs.set_rate(job_id, (await body(request, ChangeRate)).rate_limit)
            case _:
                return answer(self._jobs.progress(job_id))
        return Response(status_code=204)

    async def commit(self, request: Request) -> Response:
        await self._jobs.commit(request.path_params["job_id"])
        return Response(status_code=204)

    async def abandon(self, request: Request) -> Response:
        await self._jobs.abandon(request.path_params["job_id"])
        return Response(status_code=204)

    async def digests(self, request: Request) -> Response:
        """The digest file of a completed disk (omavol.copy.digests), as bytes."""
        progress = self._jobs.progress(request.path_params["job_id"])
        disk_id = request.path_params["disk_id"]
        if disk_id not in {disk.disk_id for disk in progress.disk_progresses}:
            raise AgentError("disk_unknown", f"job {progress.job_id} has no disk {disk_id}")
        path = self._state.digests(progress.job_id, disk_id)
        if progress.status is not SourceStatus.COMPLETED or not path.is_file():
            raise AgentError("digests_unknown", f"no digests of {disk_id} are kept for job {progress.job_id}")
        return FileResponse(path, media_type="application/octet-stream")

    async def cleanup(self, request: Request) -> Response:
        """What an older control plane asks after a failure: the job's point is given up, whatever state it is in."""
        wanted = await body(request, Cleanup)
        if wanted.action not in CLEANUPS:
            raise AgentError("bad_request", f"action is one of {', '.join(CLEANUPS)}: {wanted.action!r}")
        self._jobs.cancel(wanted.job_id)
        await self._jobs.ended(wanted.job_id)
        if not self._jobs.progress(wanted.job_id).committed:
            await self._jobs.abandon(wanted.job_id)
        return answer(msgspec.structs.replace(wanted, status="success"))

    async def events(self, request: Request) -> Response:
        """Server-sent events: the progress of every job that changes; `id` is the cursor, so Last-Event-ID resumes."""
        given = request.headers.get("last-event-id", "0")
        cursor = int(given) if given.isdecimal() else 0
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(self._stream(cursor), media_type="text/event-stream", headers=headers)

    async def _stream(self, cursor: int) -> AsyncIterator[bytes]:
        yield b": connected\n\n"
        while not self._jobs.closing:
            news = await self._jobs.news_since(cursor, HEARTBEAT)
            cursor = news.cursor
            for progress in news.replications:
                yield b"event: progress\nid: %d\ndata: %s\n\n" % (progress.sequence, msgspec.json.encode(progress))
            if not news.replications:
                yield b": still here\n\n"


def create_app(jobs: Jobs, state: State, source: Source, inventory: Inventory, token: str) -> Starlette:
    """The ASGI application; its lifespan opens and closes the jobs."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await jobs.open()
        yield
        await jobs.close()

    return Starlette(
        routes=Api(jobs, state, source, inventory).routes(),
        middleware=[Middleware(Gate, token=token)],
        exception_handlers={AgentError: _refuse, HTTPException: _refuse_http},
        lifespan=lifespan,
    )


def _number(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return default
    if not given.isdecimal() or len(given) > 18:
        raise AgentError("bad_request", f"{name} is a number of at most 18 digits: {given[:40]!r}")
    return int(given)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, AgentError)
    return problem_answer(error, request.url.path)


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "method_refused" if error.status_code == 405 else "route_unknown"
    response = problem_answer(
        AgentError(code, f"{request.method} {request.url.path}: {error.detail}"), request.url.path
    )
    response.headers.update(error.headers or {})
    return response
