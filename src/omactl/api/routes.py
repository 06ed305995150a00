"""The one table of routes: what is served, and what the API document says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omactl.api import health, page, shapes
from omactl.api.v1 import jobs, machines, replications, system

__all__ = ["ROUTES", "Endpoint", "Query", "starlette_routes"]

Handler = Callable[[Request], Awaitable[Response]]
V1 = "/api/v1"


@dataclass(frozen=True)
class Query:
    """A query parameter; `kind` is a JSON schema type."""

    name: str
    description: str
    kind: str = "string"


@dataclass(frozen=True)
class Endpoint:
    """One method of one path. `answer` is the type of its answer, or a tuple of several.

    `errors` are the HTTP statuses of its problem documents, besides 401.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Any
    status: int = 200
    body: Any = None
    query: tuple[Query, ...] = ()
    errors: tuple[int, ...] = ()
    open: bool = False


_LIST = (
    Query("kind", "only jobs of this kind"),
    Query("status", "only jobs of this status"),
    Query("machine", "only jobs of the machine with this context id or name"),
    Query("live", "true: only running ones, false: only ended ones", "boolean"),
    Query("cursor", "next_cursor of the page before"),
    Query("limit", "lines a page, 1 to 500", "integer"),
)
_SOURCE_ERRORS = (400, 404, 409, 502, 503)

ROUTES: tuple[Endpoint, ...] = (
    Endpoint("GET", "/health", health.health, "How the service and its parts are", shapes.Health, open=True, errors=()),
    Endpoint("GET", f"{V1}/jobs", jobs.listing, "Jobs of every kind, newest first", shapes.JobList,
             query=_LIST, errors=(400,)),
    Endpoint("GET", f"{V1}/jobs/{{job_id}}", jobs.detail, "One job with its steps and disks", shapes.JobDetail,
             errors=(400, 404)),
    Endpoint("POST", f"{V1}/jobs/{{job_id}}/cancel", jobs.cancel, "Ask a running job to end; its volumes stay",
             shapes.JobRow, 202, errors=(400, 404, 409)),
    Endpoint("GET", f"{V1}/progress/{{job_id}}", jobs.progress, "The progress of a job as last recorded",
             shapes.ProgressRow, errors=(400, 404)),
    Endpoint("GET", f"{V1}/replications", replications.listing, "Replications, newest first", shapes.Replications,
             query=_LIST[1:], errors=(400,)),
    Endpoint("POST", f"{V1}/replications", replications.create, "Start a replication, or only manage a machine",
             (shapes.ReplicationStarted, shapes.MachineAdded), 201, shapes.NewReplication,
             errors=(*_SOURCE_ERRORS, 413)),
    Endpoint("GET", f"{V1}/replications/{{job_id}}", replications.detail, "One replication", shapes.ReplicationPage,
             errors=(400, 404)),
    Endpoint("DELETE", f"{V1}/replications/{{job_id}}", replications.delete,
             "Cancel a running replication (202), or delete the record of an ended one", shapes.Done,
             errors=(400, 404, 409)),
    Endpoint("GET", f"{V1}/vm-contexts", machines.listing, "Machines under management", shapes.Contexts),
    Endpoint("GET", f"{V1}/vm-contexts/{{key}}", machines.detail, "One machine, by context id or unique name",
             shapes.ContextPage, errors=(400, 404, 409)),
    Endpoint("GET", f"{V1}/vm-contexts/{{key}}/recent-jobs", machines.recent_jobs, "The newest 20 jobs of a machine",
             shapes.RecentJobs, errors=(400, 404, 409)),
    Endpoint("POST", f"{V1}/discovery/discover-vms", machines.discover, "The machines that a source has",
             shapes.Discovery, body=shapes.Discover, errors=(*_SOURCE_ERRORS, 413)),
    Endpoint("POST", f"{V1}/discovery/add-vms", machines.add, "Put machines under management", shapes.Added,
             body=shapes.AddMachines, errors=(*_SOURCE_ERRORS, 413)),
    Endpoint("GET", f"{V1}/sources", system.list_sources, "Sources", shapes.Sources),
    Endpoint("POST", f"{V1}/sources", system.add_source, "Add a source, or renew its token", shapes.SourceRow, 201,
             shapes.NewSource, errors=(400, 409, 413)),
    Endpoint("GET", f"{V1}/recovery", system.recovery, "What became of unfinished jobs at start", shapes.RecoveryPage),
    Endpoint("POST", f"{V1}/access/links", system.new_link, "A link that opens the page once", shapes.Link, 201),
)  # fmt: skip

PAGES: tuple[tuple[str, Handler], ...] = (("/login", page.login), ("/", page.page))


def starlette_routes(document: Handler) -> list[Route]:
    """One route a path, so that a wrong method is answered with every right one."""
    by_path: dict[str, dict[str, Handler]] = {}
    for endpoint in ROUTES:
        by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint.handler
    routes = [Route(path, _by_method(handlers), methods=list(handlers)) for path, handlers in by_path.items()]
    routes += [Route(path, handler, methods=["GET"]) for path, handler in PAGES]
    return [*routes, Route("/openapi.json", document, methods=["GET"])]


def _by_method(handlers: dict[str, Handler]) -> Handler:
    async def handle(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await handlers[method](request)

    return handle
