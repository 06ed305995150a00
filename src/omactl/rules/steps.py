"""The declared steps of a replication: what each leaves behind, and from where a job that was cut off goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from omactl.rules.transitions import JobStatus, StepStatus

__all__ = ["REPLICATION", "Step", "first_unfinished", "handed_over", "setup_percent", "step"]


@dataclass(frozen=True)
class Step:
    """`status` is the job's while the step runs; `setup` the set-up percentage reached when it is done.

    `needs` is what must be recorded before it may start, `leaves` what is recorded once it is completed.
    """

    name: str
    status: JobStatus
    setup: int
    needs: str
    leaves: str


REPLICATION: tuple[Step, ...] = (
    Step("validation", JobStatus.ANALYZING, 20, "the machine's identity", "its disks, as the source has them now"),
    Step("provisioning", JobStatus.PROVISIONING, 60, "the disks", "a volume of every disk"),
    Step("attaching", JobStatus.ATTACHING, 70, "the volumes", "every volume attached to this appliance"),
    Step("configuring", JobStatus.CONFIGURING, 80, "attached volumes", "a write session of every volume, and its base"),
    Step("handing-over", JobStatus.READY_FOR_SYNC, 85, "the sessions", "the job at the source"),
    Step("replicating", JobStatus.REPLICATING, 85, "the job at the source", "every disk flushed, its digests kept"),
    Step("proving", JobStatus.FINALIZING, 85, "the digests", "one point, recorded by every volume"),
    Step("committing", JobStatus.FINALIZING, 85, "the recorded point", "the point as the source's base"),
)

_BY_NAME = {step.name: step for step in REPLICATION}
_DONE = frozenset({StepStatus.COMPLETED, StepStatus.SKIPPED})


def step(name: str) -> Step:
    """The declared step of that name; KeyError for another."""
    return _BY_NAME[name]


def first_unfinished(recorded: Mapping[str, StepStatus]) -> Step | None:
    """The step from which a job goes on; None when all are done."""
    return next((each for each in REPLICATION if recorded.get(each.name) not in _DONE), None)


def handed_over(recorded: Mapping[str, StepStatus]) -> bool:
    """Has the source taken the job? From then on it is asked before anything is judged."""
    return recorded.get("handing-over") in _DONE


def setup_percent(name: str) -> int:
    """How far the set-up is once the named step is completed, in percent (0-85)."""
    return _BY_NAME[name].setup
