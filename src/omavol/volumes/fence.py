"""Who may write to a volume: the rule of epochs as a table, pure.

An epoch is a fencing token that never decreases for one volume: a higher one ends what holds the volume, a lower one
is a writer that was replaced and does not know it yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from omavol.schema.volumes import SessionState

__all__ = ["LIVE", "RULES", "Fence", "FenceFacts", "Rule", "decide"]

LIVE = frozenset({SessionState.OPEN, SessionState.PROVING})


class Fence(Enum):
    OPEN = auto()  # nothing in the way: open a new session
    SAME = auto()  # the caller's own session, again
    TAKE_OVER = auto()  # end the one that is, then open
    REFUSE_STALE = auto()  # the caller was replaced
    REFUSE_HELD = auto()  # another holds it
    REFUSE_PROVING = auto()  # a finished pass is being compared: it must not be lost


@dataclass(frozen=True)
class FenceFacts:
    """`latest`: the state of the volume's newest session, None if it never had one; `highest` the highest epoch seen.

    `same_job`: the newest session is the asking job's; `job_seen`: any of the volume's sessions is.
    """

    epoch: int
    highest: int
    latest: SessionState | None
    same_job: bool
    job_seen: bool

    @property
    def live(self) -> bool:
        return self.latest in LIVE


@dataclass(frozen=True)
class Rule:
    matches: Callable[[FenceFacts], bool]
    decision: Fence
    reason: str


RULES: tuple[Rule, ...] = (
    Rule(lambda f: f.latest is None, Fence.OPEN, "the first session of the volume"),
    Rule(lambda f: f.epoch < f.highest, Fence.REFUSE_STALE, "a newer epoch has been here"),
    Rule(lambda f: f.epoch == f.highest and f.same_job and f.live, Fence.SAME, "asked again"),
    Rule(
        lambda f: f.epoch == f.highest and f.same_job and f.latest is SessionState.PROVED, Fence.SAME, "already proved"
    ),
    Rule(lambda f: f.epoch > f.highest and f.latest is SessionState.PROVING, Fence.REFUSE_PROVING, "being proved"),
    Rule(lambda f: f.epoch > f.highest and f.live, Fence.TAKE_OVER, "a newer epoch"),
    Rule(lambda f: f.epoch > f.highest, Fence.OPEN, "a newer epoch, nothing open"),
    Rule(lambda f: f.live, Fence.REFUSE_HELD, "another job holds it at the same epoch"),
    Rule(lambda f: f.same_job, Fence.OPEN, "its own session ended unproved"),
    Rule(lambda f: f.job_seen, Fence.REFUSE_STALE, "another job came after it"),
    Rule(lambda f: True, Fence.OPEN, "nothing open"),
)


def decide(facts: FenceFacts) -> Rule:
    """The first rule that matches; the last always does."""
    return next(rule for rule in RULES if rule.matches(facts))
