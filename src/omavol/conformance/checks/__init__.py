"""The checks of servers, one exchange of the protocol a file; `load` imports them all, which fills the table."""

from __future__ import annotations

import importlib

__all__ = ["MODULES", "load"]

MODULES = (
    "greeting",
    "options",
    "info",
    "contexts",
    "offers",
    "tls",
    "requests",
    "refusals",
    "reads",
    "writes",
    "zeroes",
    "status",
    "endings",
    "extended",
)


def load() -> None:
    """Fill the table; a second call does nothing."""
    for module in MODULES:
        importlib.import_module(f"{__name__}.{module}")
