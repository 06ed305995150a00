"""What a check is, and the table of all of them in the order of the document's phases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from omavol.conformance.facts import Need

if TYPE_CHECKING:
    from omavol.conformance.server import Server

__all__ = ["Check", "Group", "Row", "Tag", "check", "chosen"]


class Tag(StrEnum):
    """How strict the document's own words are; HOUSE is a rule of this project where the document is silent."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"
    STATES = "states"
    HOUSE = "house"


class Group(StrEnum):
    """Where a check stands in the output."""

    GREETING = "Greeting and EXPORT_NAME"
    OPTIONS = "Options"
    INFO = "INFO and GO"
    CONTEXTS = "Meta contexts"
    OFFERS = "What the server offers"
    TLS = "TLS"
    REQUESTS = "Requests and replies"
    REFUSALS = "What is refused"
    READS = "Reads"
    WRITES = "Writes"
    STATUS = "Block status"
    ENDINGS = "Endings"
    EXTENDED = "Extended headers (experimental)"


class Row(Protocol):
    """What a line of the output says of a rule: a check of servers, or a scenario for clients."""

    @property
    def rule(self) -> str: ...
    @property
    def tag(self) -> Tag: ...
    @property
    def group(self) -> str: ...
    @property
    def section(self) -> str: ...
    @property
    def sentence(self) -> str: ...
    @property
    def experimental(self) -> bool: ...
    @property
    def name(self) -> str: ...


Judge = Callable[["Server"], None]


@dataclass(frozen=True)
class Check:
    """One thing a client can see of one rule. `sentence` says what is right; `judge` returns or raises."""

    rule: str
    tag: Tag
    group: Group
    section: str  # heading of doc/proto.md
    sentence: str
    judge: Judge
    needs: tuple[Need, ...] = ()
    hostile: bool = False  # a control connection follows
    experimental: bool = False

    @property
    def name(self) -> str:
        """A stable name for programs: rule and function."""
        return f"{self.rule}-{self.judge.__name__.replace('_', '-')}"


_CHECKS: list[Check] = []


def check(
    rule: str,
    tag: Tag,
    group: Group,
    section: str,
    sentence: str,
    *needs: Need,
    hostile: bool = False,
    experimental: bool = False,
) -> Callable[[Judge], Judge]:
    """Put a function into the table."""

    def enter(judge: Judge) -> Judge:
        _CHECKS.append(Check(rule, tag, group, section, sentence, judge, needs, hostile, experimental))
        return judge

    return enter


def chosen(rules: Iterable[str] = (), section: str | None = None) -> list[Check]:
    """The checks of these rules and of sections or groups that contain this text; all of them by default."""
    from omavol.conformance import checks  # the modules fill the table

    checks.load()
    wanted = {rule.upper() for rule in rules}
    text = (section or "").lower()
    order = list(Group)
    found = [
        check
        for check in _CHECKS
        if (not wanted or check.rule in wanted) and (text in check.section.lower() or text in check.group.lower())
    ]
    return sorted(found, key=lambda check: order.index(check.group))
