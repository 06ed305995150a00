"""Sources, recovery, access and health over the wire."""

from __future__ import annotations

from typing import Any

import msgspec

from omavol.schema.common import Time

__all__ = ["Done", "Health", "Link", "NewSource", "RecoveryDecision", "RecoveryPage", "SourceRow", "Sources"]


class Done(msgspec.Struct, kw_only=True, omit_defaults=True):
    """It was done; `message` says what."""

    message: str
    success: bool
    job_id: str | None = None


class SourceRow(msgspec.Struct, kw_only=True):
    """A source. Its token is never given back."""

    name: str
    url: str
    created_at: Time
    updated_at: Time


class Sources(msgspec.Struct, kw_only=True):
    sources: list[SourceRow]
    count: int


class NewSource(msgspec.Struct, kw_only=True):
    """`url` as http://host:port. A known name with the same address gets the new token."""

    name: str
    url: str
    token: str


class RecoveryDecision(msgspec.Struct, kw_only=True):
    job_id: str
    machine: str
    status: str
    answer: str
    action: str
    reason: str
    at: Time


class RecoveryPage(msgspec.Struct, kw_only=True):
    """The pass over unfinished jobs at start: `pending`, `recovering`, `completed` or `failed`, and each decision."""

    state: str
    started_at: Time | None
    completed_at: Time | None
    counts: dict[str, int]
    decisions: list[RecoveryDecision]


class Link(msgspec.Struct, kw_only=True):
    """A path that opens the page once, within an hour."""

    path: str


class Health(msgspec.Struct, kw_only=True):
    """`healthy`, or `degraded` with what is amiss below. Everything in it was asked for this answer."""

    service: str
    status: str
    timestamp: Time
    version: str
    database: str
    recovery: str
    monitor: dict[str, Any]
    omavol: str
    sources: dict[str, str]
