"""What can go wrong in a copy: one type with a stable code, the side, the offset, and a sentence for a person."""

from __future__ import annotations

import os

__all__ = ["BadDigests", "CopyError"]

Fault = tuple[str, str, int, int, str]  # side, kind, code, offset, text: as omavol._fastio gives it

_SENTENCES: dict[str, str] = {
    "errno": "{text} at offset {offset} failed: {cause}",
    "answered": "{text} at offset {offset} failed: the server answered {cause}",
    "breach": "the server broke the protocol at offset {offset}: {text}",
    "closed": "the connection was closed by the server, at offset {offset}",
    "silent": "no answer for {timeout:g} s, at offset {offset}",
    "short": "the data ends at offset {offset}, before the size it should have",
    "cancelled": "cancelled after {offset} bytes",
}
_ADVICE: dict[tuple[str, int], str] = {
    ("answered", 1): "The export is read-only, or the server does not permit it.",
    ("answered", 28): "Make room at the destination.",
    ("errno", 28): "Make room at the destination.",
}
# proto.md, "Error values"; any other value is read as EINVAL.
_ANSWERS = {
    1: "EPERM (not permitted)",
    5: "EIO (input/output error)",
    12: "ENOMEM (out of memory)",
    22: "EINVAL (invalid request)",
    28: "ENOSPC (no space left on device)",
    75: "EOVERFLOW (value too large)",
    95: "ENOTSUP (not supported)",
    108: "ESHUTDOWN (the server is shutting down)",
}


class CopyError(Exception):
    """A copy failed. `str()` is one line that says what, on which side, at which offset.

    `code` is stable: copy.<kind> with kind errno, answered, breach, closed, silent, short, cancelled, open, size or
    changed.
    `side` is "source", "destination" or ""; `offset` is None where the failure has none. `passing`: the server could
    not be reached, which may be otherwise in a while.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        side: str = "",
        offset: int | None = None,
        advice: str | None = None,
        passing: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.side = side
        self.offset = offset
        self.advice = advice
        self.passing = passing

    @classmethod
    def of(cls, fault: Fault, names: dict[str, str], timeout: float) -> CopyError:
        """From the error struct of the loop; `names` says what stands at each side."""
        side, kind, number, offset, text = fault
        cause = _ANSWERS.get(number, _ANSWERS[22]) if kind == "answered" else os.strerror(number)
        sentence = _SENTENCES[kind].format(text=text, offset=offset, cause=cause, timeout=timeout)
        where = f"{side} {names[side]}: " if side else ""
        return cls(where + sentence, code=f"copy.{kind}", side=side, offset=offset, advice=_ADVICE.get((kind, number)))


class BadDigests(CopyError):
    """A digest file is damaged, of a newer version, or none at all."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="copy.digests")
