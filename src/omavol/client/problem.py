"""What a client raises: always a problem document (RFC 9457), with a type for the three ways of not being answered."""

from __future__ import annotations

import msgspec

from omavol.schema.common import Problem

__all__ = ["BadAnswer", "ProblemError", "Unreachable", "WaitedTooLong", "problem_of"]


class ProblemError(Exception):
    """A request failed; `problem` has the stable code, the facts and the advice."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem

    @property
    def code(self) -> str:
        return self.problem.code


class Unreachable(ProblemError):
    """No answer came. `may_have_acted`: the request was sent, so it may have taken effect."""

    def __init__(self, problem: Problem, *, may_have_acted: bool) -> None:
        super().__init__(problem)
        self.may_have_acted = may_have_acted


class BadAnswer(ProblemError):
    """An answer came that is not what the API promises; its beginning is in the problem's detail."""


class WaitedTooLong(ProblemError):
    """The operation is not finished within the time given; it goes on."""


def problem_of(status: int, content_type: str, body: bytes) -> ProblemError:
    """The error that an answer of status >= 400 carries: its own problem document, or one made of its text."""
    if content_type.partition(";")[0].strip() in ("application/problem+json", "application/json"):
        try:
            return ProblemError(msgspec.json.decode(body, type=Problem))
        except msgspec.DecodeError:
            pass
    text = " ".join(body[:300].decode(errors="replace").split())
    return BadAnswer(
        Problem(status=status, code="bad_answer", title="Unexpected answer", detail=f"HTTP {status}: {text or 'empty'}")
    )
