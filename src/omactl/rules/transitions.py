"""The closed set of job, step and machine statuses, and the moves between them that are legal."""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "FINAL",
    "LIVE",
    "MOVES",
    "SETTING_UP",
    "ContextStatus",
    "JobStatus",
    "StepStatus",
    "is_legal",
]


class JobStatus(StrEnum):
    """A job as its row says (BEHAVIOUR.md 3.3), in the order in which a replication goes through them."""

    PENDING = "pending"
    INITIALIZING = "initializing"
    ANALYZING = "analyzing"
    PROVISIONING = "provisioning"
    ATTACHING = "attaching"
    CONFIGURING = "configuring"
    READY_FOR_SYNC = "ready_for_sync"
    SNAPSHOTTING = "snapshotting"
    REPLICATING = "replicating"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepStatus(StrEnum):
    """One step of a job. A job's steps are all there, pending, from its creation."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


class ContextStatus(StrEnum):
    """A machine as a whole (BEHAVIOUR.md 3.4)."""

    DISCOVERED = "discovered"
    REPLICATING = "replicating"
    READY_FOR_FAILOVER = "ready_for_failover"
    FAILED_OVER_TEST = "failed_over_test"
    FAILED_OVER_LIVE = "failed_over_live"
    COMPLETED = "completed"
    FAILED = "failed"
    CLEANUP_REQUIRED = "cleanup_required"


FINAL: frozenset[JobStatus] = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
LIVE: tuple[JobStatus, ...] = tuple(status for status in JobStatus if status not in FINAL)
SETTING_UP: frozenset[JobStatus] = frozenset(LIVE[: LIVE.index(JobStatus.READY_FOR_SYNC)])

_WORKING = frozenset(LIVE) - {JobStatus.PENDING}
_HANDED_OVER = frozenset({JobStatus.SNAPSHOTTING, JobStatus.REPLICATING, JobStatus.FINALIZING})

# Within the set-up a job may go back (a session that ended is opened again); once handed over it never does, but the
# source may freeze and copy in turns. Any live job may fail or be cancelled; only a proved one may complete.
MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.PENDING: _WORKING - _HANDED_OVER | {JobStatus.FAILED, JobStatus.CANCELLED},
    **dict.fromkeys(
        (
            JobStatus.INITIALIZING,
            JobStatus.ANALYZING,
            JobStatus.PROVISIONING,
            JobStatus.ATTACHING,
            JobStatus.CONFIGURING,
        ),
        SETTING_UP - {JobStatus.PENDING} | {JobStatus.READY_FOR_SYNC, JobStatus.FAILED, JobStatus.CANCELLED},
    ),
    JobStatus.READY_FOR_SYNC: _WORKING | {JobStatus.FAILED, JobStatus.CANCELLED},
    JobStatus.SNAPSHOTTING: _HANDED_OVER | {JobStatus.FAILED, JobStatus.CANCELLED},
    JobStatus.REPLICATING: _HANDED_OVER | {JobStatus.FAILED, JobStatus.CANCELLED},
    JobStatus.FINALIZING: frozenset(
        {JobStatus.FINALIZING, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED},
    ),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


def is_legal(before: JobStatus, after: JobStatus) -> bool:
    """May a job move from `before` to `after`?"""
    return after in MOVES[before]
