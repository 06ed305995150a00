"""Every way the agent can fail, as a table: a stable code, its HTTP status, a title, and what to do next."""

from __future__ import annotations

from typing import NamedTuple

from omavol.copy.errors import CopyError
from omavol.nbd.errors import BadUri, NbdError
from omavol.schema.common import Problem
from omavol.source.errors import SourceError

__all__ = ["KINDS", "AgentError", "Kind", "as_agent_error"]


class Kind(NamedTuple):
    status: int
    title: str
    advice: tuple[str, ...]


_DISCOVER = ("Discover the machines anew and use the paths and disk ids of the answer.",)
_RETRY = ("Start the replication again: it copies what changed since the last committed point.",)
_SOURCE = ("Look at the machine on the source host, then start the replication again.",)

KINDS: dict[str, Kind] = {
    "bad_request": Kind(400, "The request cannot be understood", ("Compare it with the API's description.",)),
    "not_authorised": Kind(401, "No valid token", ("Send the agent's token: Authorization: Bearer TOKEN.",)),
    "route_unknown": Kind(404, "There is no such route", ("GET /api/v1/version names what this agent offers.",)),
    "method_refused": Kind(405, "The route does not take this method", ("See the Allow header.",)),
    "request_too_large": Kind(413, "The request is too large", ("Send less than 1 MiB.",)),
    "machine_unknown": Kind(404, "There is no such machine", _DISCOVER),
    "disk_unknown": Kind(404, "The machine has no such disk", _DISCOVER),
    "job_unknown": Kind(404, "The agent does not know this job", ("GET /api/v1/replications lists its jobs.",)),
    "digests_unknown": Kind(404, "There are no digests", ("They are kept from completion until commit or abandon.",)),
    "machine_busy": Kind(409, "The machine is being replicated", ("Wait for the running job, or cancel it.",)),
    "job_exists": Kind(409, "The job exists with another request", ("Give every replication an id of its own.",)),
    "job_unfinished": Kind(409, "The job is not completed", ("Commit a job only after its status is completed.",)),
    "point_unknown": Kind(409, "The job's point is not kept", _RETRY),
    "inventory_broken": Kind(409, "The machine's folder cannot be used", _SOURCE),
    "image_broken": Kind(409, "The disk image cannot be used", _SOURCE),
    "image_in_use": Kind(409, "The disk image is in use", _SOURCE),
    "freeze_failed": Kind(409, "The machine could not be frozen", _RETRY),
    "nbd_server_taken": Kind(409, "The machine's NBD server is taken", _SOURCE),
    "monitor_unreachable": Kind(503, "The machine's monitor cannot be reached", _SOURCE),
    "monitor_lost": Kind(503, "The machine's monitor broke off", _RETRY),
    "monitor_refused": Kind(409, "The machine refused a command", _SOURCE),
    "overlay_failed": Kind(409, "The frozen view was lost", _RETRY),
    "overlay_space_short": Kind(507, "The agent's state directory runs full", _RETRY),
    "state_path_too_long": Kind(500, "The state directory's path is too long", ("Choose a shorter --state.",)),
    "source_failed": Kind(500, "The source failed", _SOURCE),
    "destination_refused": Kind(
        409, "The destination cannot be used", ("Check that the export exists, is writable and that its name is new.",)
    ),
    "destination_lost": Kind(
        502, "The destination failed", ("Check the appliance's NBD server and the network to it.", *_RETRY)
    ),
    "source_read_failed": Kind(502, "The source disk could not be read", _SOURCE),
    "size_mismatch": Kind(
        409, "The destination has another size than the disk", ("Give the disk a volume of exactly its size.",)
    ),
    "agent_restarted": Kind(500, "The agent was restarted", _RETRY),
    "cancelled": Kind(409, "The replication was cancelled", ("Start it again when it is wanted.",)),
    "internal": Kind(500, "The agent failed", ("Report this with the agent's log.",)),
}

# What a copy's code means for the job, by side.
_COPY_CODES = {"source": "source_read_failed", "destination": "destination_lost"}


class AgentError(Exception):
    """`code` is a key of KINDS; `detail` is the sentence; `advice` replaces the table's where it is better."""

    def __init__(
        self, code: str, detail: str, *, advice: tuple[str, ...] | None = None, job_id: str | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.advice = KINDS[code].advice if advice is None else advice
        self.job_id = job_id

    @property
    def status(self) -> int:
        return KINDS[self.code].status

    def problem(self, instance: str | None = None) -> Problem:
        """The document that the API answers with (RFC 9457), readable for older clients too."""
        return Problem(
            status=self.status,
            code=self.code,
            title=KINDS[self.code].title,
            detail=self.detail,
            advice=self.advice,
            instance=instance,
            job_id=self.job_id,
        ).for_the_wire()


def as_agent_error(error: Exception) -> AgentError:
    """The same failure in the agent's words, whatever part below raised it."""
    match error:
        case AgentError():
            return error
        case SourceError():
            return AgentError(error.code, error.detail, advice=error.advice or None)
        case CopyError(code="copy.cancelled"):
            return AgentError("cancelled", str(error))
        case CopyError(code="copy.size"):
            return AgentError("size_mismatch", str(error))
        case CopyError():
            advice = None if error.advice is None else (error.advice,)
            return AgentError(_COPY_CODES.get(error.side, "source_read_failed"), str(error), advice=advice)
        case BadUri():
            return AgentError("bad_request", str(error), advice=None if error.advice is None else (error.advice,))
        case NbdError():
            return AgentError("destination_refused", str(error))
        case OSError():
            return AgentError("internal", f"the agent's own files failed: {error}")
    return AgentError("internal", f"unforeseen: {type(error).__name__}: {error}")
