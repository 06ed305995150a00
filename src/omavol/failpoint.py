"""Named places where a crash test may kill the process; nothing happens unless the environment asks for it.

`OMA_FAILPOINT=name` or `name:3` (the third time) sends SIGKILL to this process there, after appending the name to the
file `OMA_FAILPOINT_LOG`, so that a test proves that it died where it meant to. `failpoint.h` is the same for C.
A release build (OMA_RELEASE=1) has neither: C leaves the macro out, and `reach` does nothing under `python -O`.
"""

from __future__ import annotations

import os
import signal

__all__ = ["reach"]

_wanted, _, _count = os.environ.get("OMA_FAILPOINT", "").partition(":")
_remaining = int(_count or 1)


def reach(name: str) -> None:
    """Say that the named place is reached; dies here if a crash test asked for it."""
    if __debug__ and name == _wanted:
        _die_on_the_last(name)


def _die_on_the_last(name: str) -> None:
    global _remaining
    _remaining -= 1
    if _remaining:
        return
    if log := os.environ.get("OMA_FAILPOINT_LOG"):
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, f"{name}\n".encode())
        os.close(descriptor)
    os.kill(os.getpid(), signal.SIGKILL)
