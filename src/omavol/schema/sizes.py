"""Bytes as a person writes them, in options, filters and names of disks."""

from __future__ import annotations

import re

__all__ = ["parse_size"]

_UNITS = " KMGTP"  # powers of 1024


def parse_size(text: str, *, least: int = 0, most: int = 2**63 - 1) -> int | None:
    """The bytes of a number with K, M, G, T or P for powers of 1024; None for anything else, or out of the bounds.

    >>> parse_size("4k"), parse_size("64G"), parse_size("1.5M"), parse_size("64M", most=32 << 20)
    (4096, 68719476736, None, None)
    """
    match = re.fullmatch(r"(\d{1,19})([KMGTP]?)", text, re.ASCII | re.IGNORECASE)
    if match is None:
        return None
    size = int(match[1]) << 10 * _UNITS.index(match[2].upper() or " ")
    return size if least <= size <= most else None
