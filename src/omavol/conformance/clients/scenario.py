"""What a scenario is: a server with one named behaviour, and what a client must come to when it meets it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from omavol.conformance.clients.answers import Honest
from omavol.conformance.clients.honest import Offers
from omavol.conformance.table import Tag

__all__ = ["Expected", "Scenario", "scenario", "scenarios"]


class Expected(StrEnum):
    """How the client has to end. It may never hang, and never die by a signal."""

    SUCCESS = "success"
    FAILURE = "failure"
    EITHER = "success or failure"


@dataclass(frozen=True)
class Scenario:
    """`soft`: the client has to say goodbye, too (ABORT or DISC)."""

    name: str
    rule: str
    tag: Tag
    section: str
    sentence: str
    server: type[Honest]
    offers: Offers
    expected: Expected
    soft: bool = False
    experimental: bool = False

    @property
    def group(self) -> str:
        """The heading of the module it stands in."""
        return _GROUPS[self.server.__module__.rpartition(".")[2]]


_SCENARIOS: list[Scenario] = []
_GROUPS = {
    "good": "Servers that keep every rule",
    "bad_handshake": "Servers that break the handshake",
    "bad_answers": "Servers that break the transmission phase",
}


def scenario(
    rule: str,
    tag: Tag,
    expected: Expected,
    section: str,
    sentence: str,
    *,
    offers: Offers | None = None,
    soft: bool = False,
) -> Callable[[type[Honest]], type[Honest]]:
    """Put a server into the table; its class name is the scenario's."""

    def enter(server: type[Honest]) -> type[Honest]:
        name = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in server.__name__).strip("-")
        _SCENARIOS.append(Scenario(name, rule, tag, section, sentence, server, offers or Offers(), expected, soft))
        return server

    return enter


def scenarios(rules: Iterable[str] = (), section: str | None = None) -> list[Scenario]:
    """The scenarios of these rules and of sections or groups that contain this text, the good servers first."""
    for module in _GROUPS:
        importlib.import_module(f"omavol.conformance.clients.{module}")  # which fills the table
    wanted = {rule.upper() for rule in rules}
    text = (section or "").lower()
    found = [
        each
        for each in _SCENARIOS
        if (not wanted or each.rule in wanted) and (text in each.section.lower() or text in each.group.lower())
    ]
    order = list(_GROUPS.values())
    return sorted(found, key=lambda each: order.index(each.group))
