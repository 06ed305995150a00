"""The unified list of jobs, one job with its steps and disks, and the wish to end one."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from omactl.api import shapes
from omactl.api.body import number, path_id, text, world
from omactl.api.present import job_disk, job_row, job_step, progress_row, row_values
from omactl.api.problem import answer
from omactl.rules.messages import Failure
from omactl.store import queries
from omactl.store.queries import Filter, Listed, Page
from omactl.store.rows import JobDisk, JobStep

__all__ = ["cancel", "detail", "listing", "page_of", "progress"]

PAGE_LIMIT = 500


async def page_of(request: Request, kind: str | None = None) -> Page:
    """The page that the query asks for."""
    live = text(request, "live")
    if live not in (None, "true", "false"):
        raise Failure("invalid_parameter", parameter="live", problem="it must be true or false")
    wanted = Filter(
        kind=kind or text(request, "kind"),
        status=text(request, "status"),
        machine=text(request, "machine"),
        live=None if live is None else live == "true",
        cursor=text(request, "cursor"),
        limit=number(request, "limit", 50, 1, PAGE_LIMIT),
    )
    return await world(request).control.database.read(queries.list_jobs, wanted)


async def listing(request: Request) -> Response:
    page = await page_of(request)
    rows = [job_row(line) for line in page.lines]
    return answer(shapes.JobList(jobs=rows, count=len(rows), next_cursor=page.next_cursor))


async def _whole(connection: AsyncConnection, job_id: str) -> tuple[Listed, list[JobStep], list[JobDisk]]:
    line = await queries.listed(connection, job_id)
    return line, await queries.steps_of(connection, job_id), await queries.disks_of(connection, job_id)


async def detail(request: Request) -> Response:
    line, steps, disks = await world(request).control.database.read(_whole, path_id(request, "job_id"))
    return answer(
        shapes.JobDetail(
            **row_values(line),
            started_by=line.job.started_by,
            steps=[job_step(step) for step in steps],
            disks=[job_disk(disk) for disk in disks],
            options=line.job.options or None,
            details=line.job.error_details if request.state.token.role == "admin" else None,
        )
    )


async def progress(request: Request) -> Response:
    line, _, disks = await world(request).control.database.read(_whole, path_id(request, "job_id"))
    return answer(progress_row(line, disks))


async def cancel(request: Request) -> Response:
    """Answered at once; the job ends as soon as its source has let go of it."""
    control, job_id = world(request).control, path_id(request, "job_id")
    await control.dispatch.cancel(job_id, request.state.token.name)
    line = await control.database.read(queries.listed, job_id)
    return answer(job_row(line), status=202)
