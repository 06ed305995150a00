"""What to mend: a pure function from what the record says and what is, for one volume, to one decision.

The table is total over its inputs (a test enumerates them). The mender applies a decision, looks again, and goes on
until nothing is to be done. Nothing here destroys data: what is not understood is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from omavol.schema.volumes import VolumeStatus

__all__ = ["RULES", "Device", "Facts", "Found", "Mend", "Rule", "Served", "Writing", "reconcile"]


class Found(StrEnum):
    """The volume as the provider shows it."""

    ATTACHED = "attached"  # there, and given to the machine that the record names
    DETACHED = "detached"  # there, given to nobody
    ELSEWHERE = "elsewhere"  # there, given to another machine than the record names
    SHORT = "short"  # there, but smaller than the source disk
    MISSING = "missing"
    UNTOLD = "untold"  # the provider could not say


class Writing(StrEnum):
    """The volume's live session."""

    NONE = "none"
    UNOFFERED = "unoffered"  # recorded; the server was never known to have its export
    OPEN = "open"
    DOOMED = "doomed"  # open, marked as unprovable
    PROVING = "proving"


class Served(StrEnum):
    """The live session's export at the server."""

    AWAY = "away"  # the server does not answer
    SERVED = "served"  # by the incarnation that took it
    GONE = "gone"  # not served, though the incarnation is the same
    OTHER = "other"  # another incarnation


class Device(StrEnum):
    """The device of a volume that is attached here."""

    SOUND = "sound"  # where it should be, under its name; or none is looked for
    ADRIFT = "adrift"  # there, but not under its name: after a reboot, or at another letter
    LOST = "lost"  # the provider shows it attached here, and the kernel has no such device


class Mend(StrEnum):
    NONE = "none"
    WAIT = "wait"
    REPORT = "report"
    SETTLE = "settle"  # record the state that the provider shows
    OUTSIDE = "outside"  # settle, end the session, content unknown, generation up
    LOSE = "lose"  # outside, and whoever has its node open fails from here on
    NAME = "name"  # bring the device under its name again
    DROP_STRAY = "drop-stray"  # stop serving what no session owns
    OFFER = "offer"  # serve the session's export for the first time
    READD = "re-add"  # serve it again; its counters are lost
    DOOM = "doom"  # mark the session: it can only end unproved
    END = "end"  # end the session unproved


@dataclass(frozen=True)
class Facts:
    """`busy`: an operation is under way. `stray`: an export issued for the volume is served and no session owns it."""

    busy: bool
    status: VolumeStatus
    found: Found
    writing: Writing
    served: Served
    stray: bool
    device: Device = Device.SOUND


@dataclass(frozen=True)
class Rule:
    matches: Callable[[Facts], bool]
    mend: Mend
    code: str
    reason: str


V, F, W, S, D = VolumeStatus, Found, Writing, Served, Device
_BETWEEN = frozenset({V.CREATING, V.ATTACHING, V.DETACHING, V.DELETING})
_BROKEN = frozenset({F.SHORT, F.MISSING})

RULES: tuple[Rule, ...] = (
    Rule(lambda f: f.busy, Mend.NONE, "busy", "an operation is under way and brings it to an end"),
    Rule(lambda f: f.status is V.DELETED and f.found in _BROKEN, Mend.NONE, "ok", "deleted"),
    Rule(lambda f: f.status is V.DELETED, Mend.REPORT, "deleted_volume_present", "the provider still shows it"),
    Rule(lambda f: f.found is F.UNTOLD, Mend.WAIT, "provider_untold", "the provider could not say where it is"),
    Rule(lambda f: f.status in _BETWEEN, Mend.SETTLE, "state_without_operation", "no operation is under way"),
    Rule(lambda f: f.status is V.ERROR and f.found in _BROKEN, Mend.REPORT, "volume_lost", "not there, or too small"),
    Rule(lambda f: f.status is V.ERROR and f.device is D.LOST, Mend.REPORT, "device_missing", "its device is not here"),
    Rule(lambda f: f.status is V.ERROR, Mend.SETTLE, "volume_back", "it is there again"),
    Rule(lambda f: f.found in _BROKEN, Mend.OUTSIDE, "volume_lost", "not there, or smaller than its source disk"),
    Rule(
        lambda f: f.status.value != f.found.value,
        Mend.OUTSIDE,
        "moved_outside",
        "the provider shows it in another place",
    ),
    Rule(lambda f: f.device is D.LOST, Mend.LOSE, "device_lost", "its device went away without being asked"),
    Rule(lambda f: f.device is D.ADRIFT, Mend.NAME, "device_adrift", "its device is not under its name"),
    Rule(lambda f: f.stray, Mend.DROP_STRAY, "stray_export", "an export that no session owns is served"),
    Rule(lambda f: f.writing is W.NONE, Mend.NONE, "ok", "nothing is open"),
    Rule(lambda f: f.status is V.DETACHED, Mend.END, "session_without_device", "a session is open, no device is here"),
    Rule(lambda f: f.writing is W.PROVING, Mend.END, "proof_without_operation", "no operation proves it"),
    Rule(lambda f: f.writing is W.DOOMED, Mend.NONE, "doomed", "its owner must end it"),
    Rule(lambda f: f.served is S.AWAY, Mend.WAIT, "server_away", "the server does not answer"),
    Rule(lambda f: f.writing is W.UNOFFERED, Mend.OFFER, "export_not_offered", "its export was never offered"),
    Rule(lambda f: f.served is S.OTHER, Mend.DOOM, "incarnation_changed", "the server that took its writes is gone"),
    Rule(lambda f: f.served is S.GONE, Mend.READD, "export_gone", "its export was taken away by something else"),
    Rule(lambda f: True, Mend.NONE, "ok", "served as recorded"),
)


def reconcile(facts: Facts) -> Rule:
    """The first rule that matches; the last always does."""
    return next(rule for rule in RULES if rule.matches(facts))
