"""What a row has to reach, said as the table says it; CI's floor is half of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from benchmarks.race import GIB, Outcome

__all__ = ["Aim", "Faster", "Thrift", "Within", "kib", "milliseconds", "rate", "seconds"]


class Aim(Protocol):
    """One line of the table."""

    @property
    def text(self) -> str:
        """The aim, such as "≥ 2x"."""

    def measured(self, outcome: Outcome) -> float: ...

    def reached(self, outcome: Outcome) -> bool: ...

    def above_floor(self, outcome: Outcome) -> bool:
        """Whether at least half of the aim is reached."""

    def columns(self, outcome: Outcome, show: Callable[[float], str]) -> tuple[str, str, str]:
        """Ours, the peer, and what is measured; `show` writes a cost."""


@dataclass(frozen=True)
class Faster:
    """At least `times` as fast as the best peer (of one family, where it says which)."""

    times: float
    family: str = ""

    @property
    def text(self) -> str:
        return f"≥ {self.times:g}x"

    def measured(self, outcome: Outcome) -> float:
        return outcome.ratio(self.family)

    def reached(self, outcome: Outcome) -> bool:
        return self.measured(outcome) >= self.times

    def above_floor(self, outcome: Outcome) -> bool:
        return self.measured(outcome) >= self.times / 2

    def columns(self, outcome: Outcome, show: Callable[[float], str]) -> tuple[str, str, str]:
        peer = outcome.best_peer(self.family)
        return show(outcome.cost(outcome.ours)), f"{show(outcome.cost(peer))} {peer}", f"{self.measured(outcome):.2f}x"


@dataclass(frozen=True)
class Thrift:
    """At most `share` of the processor time that the thriftiest peer takes on `side`; `unit` bytes are one of work."""

    share: float
    side: str
    unit: float

    @property
    def text(self) -> str:
        return f"≤ {self.share:g}x"

    def measured(self, outcome: Outcome) -> float:
        return outcome.cpu_share(self.side)

    def reached(self, outcome: Outcome) -> bool:
        return self.measured(outcome) <= self.share

    def above_floor(self, outcome: Outcome) -> bool:
        return self.measured(outcome) <= self.share * 2

    def columns(self, outcome: Outcome, show: Callable[[float], str]) -> tuple[str, str, str]:
        peer = outcome.thriftiest_peer(self.side)
        ours, theirs = (outcome.cpu(lane, self.side) * GIB / self.unit for lane in (outcome.ours, peer))
        return f"{ours:.3f} s/GiB", f"{theirs:.3f} s/GiB {peer}", f"{self.measured(outcome):.2f}x"


@dataclass(frozen=True)
class Within:
    """A cost of at most `limit`, whatever the peers take."""

    limit: float
    show: Callable[[float], str]

    @property
    def text(self) -> str:
        return f"≤ {self.show(self.limit)}"

    def measured(self, outcome: Outcome) -> float:
        return outcome.cost(outcome.ours)

    def reached(self, outcome: Outcome) -> bool:
        return self.measured(outcome) <= self.limit

    def above_floor(self, outcome: Outcome) -> bool:
        return self.measured(outcome) <= self.limit * 2

    def columns(self, outcome: Outcome, show: Callable[[float], str]) -> tuple[str, str, str]:
        peer = outcome.best_peer()
        return show(outcome.cost(outcome.ours)), f"{show(outcome.cost(peer))} {peer}", self.show(self.measured(outcome))


def seconds(cost: float) -> str:
    return f"{cost:.3f} s"


def milliseconds(cost: float) -> str:
    return f"{cost * 1e3:.3g} ms"


def rate(cost: float) -> str:
    """A cost of a second a unit, the other way round."""
    return f"{1 / cost:,.0f}/s" if cost else "∞"


def kib(cost: float) -> str:
    return f"{cost / 1024:.1f} KiB"
