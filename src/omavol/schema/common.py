"""Identities, times and the problem document that every API answers errors with (RFC 9457)."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Annotated

import msgspec

__all__ = [
    "BlockSize",
    "Name",
    "Problem",
    "Size",
    "Time",
    "new_id",
    "now",
]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,190}$"

Name = Annotated[str, msgspec.Meta(pattern=_NAME, description="letters, digits and ._:@+-, at most 191")]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1, description="bytes")]
BlockSize = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What went wrong, in words a person can act on (RFC 9457 with extension members).

    `code` is stable and for programs; `detail` says what failed and on what; `advice` lists what to do next.
    `error`, `message` and `success` repeat it for readers of the older API (BEHAVIOUR.md 3.1).
    """

    status: int
    code: str
    title: str
    detail: str
    advice: tuple[str, ...] = ()
    type: str = "about:blank"
    instance: str | None = None
    job_id: str | None = None
    error: str | None = None
    message: str | None = None
    success: bool | None = None

    def for_the_wire(self) -> Problem:
        """The same problem with the members that older readers expect filled in."""
        return msgspec.structs.replace(self, error=self.detail, message=self.detail, success=False)


def now() -> datetime:
    """The present in UTC, with microseconds."""
    return datetime.now(UTC)


def new_id() -> str:
    """A UUID of version 7 (RFC 9562 section 5.7): sorts by time of creation to the millisecond."""
    milliseconds = time.time_ns() // 1_000_000
    bits = int.from_bytes(os.urandom(10))
    value = (
        (milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | (bits >> 68 & 0xFFF) << 64 | 0b10 << 62 | bits & (2**62 - 1)
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
