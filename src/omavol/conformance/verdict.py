"""What a check can come to, and how it says so: by raising one of these, or by returning, which is a pass."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["CannotRun", "Failed", "Gone", "NotOffered", "Outcome", "Silent", "Skipped", "shown"]

MOST_SHOWN = 64  # bytes of evidence


class Outcome(StrEnum):
    """The word a line begins with."""

    PASS = "pass"
    FAIL = "fail"
    NOT_OFFERED = "not offered"
    SKIPPED = "skipped"


class Failed(Exception):
    """The peer broke the rule: what was expected, what came, and the bytes that show it."""

    def __init__(self, expected: str, came: str, data: bytes = b"") -> None:
        super().__init__(f"expected {expected}, came {came}")
        self.expected = expected
        self.came = came
        self.data = data


class Gone(Exception):
    """The peer closed the connection, in the middle of an answer or instead of one."""


class Silent(Exception):
    """The peer did not answer, or did not take what was sent, within the limit."""


class NotOffered(Exception):
    """The rule does not apply: the server lacks the feature, or nothing it does can be judged by it."""


class Skipped(Exception):
    """The rule was not tried: it needs what the caller did not allow or this machine does not have."""


class CannotRun(Exception):
    """The suite cannot begin, or cannot go on; one line for a person."""


def shown(data: bytes) -> str:
    """Hex in groups of four bytes, cut where it is long.

    >>> shown(bytes(8)), shown(bytes(70))[-15:]
    ('00000000 00000000', '0000 and 6 more')
    """
    more = f" and {len(data) - MOST_SHOWN} more" if len(data) > MOST_SHOWN else ""
    return data[:MOST_SHOWN].hex(" ", -4) + more
