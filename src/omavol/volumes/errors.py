"""What the volume layer refuses, as errors with a stable code, the facts and the advice; each becomes a Problem."""

from __future__ import annotations

from omavol.cloud.volumes import CloudError
from omavol.schema.common import Problem

__all__ = ["ServerAway", "VolumeError", "problem_from"]


class VolumeError(Exception):
    """`status` is HTTP's; `code` is for programs; `detail` says what, on what; `advice` what next."""

    def __init__(self, status: int, code: str, detail: str, *advice: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.advice = advice


class ServerAway(VolumeError):
    """`omavol serve` does not answer on its control socket; what was asked may or may not have been done."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            503,
            "server_away",
            detail,
            "Start omavol serve with --control on this path; the daemon finds it by itself.",
        )


_TITLES = {
    400: "Bad request",
    403: "Forbidden",
    404: "Not found",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported media type",
    502: "The provider failed",
    503: "Not available",
    507: "No space",
}


def problem_from(error: VolumeError | CloudError) -> Problem:
    return Problem(
        status=error.status,
        code=error.code,
        title=_TITLES.get(error.status, "Failed"),
        detail=error.detail,
        advice=tuple(error.advice),
    )
