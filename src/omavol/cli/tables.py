"""Tables and sizes as commands print them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["bytes_for_people", "table"]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of columns as wide as their longest cell; nothing is cut off, so that lines can be searched.

    >>> print(table(("NAME", "STATE"), [("a", "ok"), ("longer", "bad")]), end="")
    NAME    STATE
    a       ok
    longer  bad
    """
    widths = [max(len(row[number]) for row in (columns, *rows)) for number in range(len(columns))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
        for row in (columns, *rows)
    )


def bytes_for_people(count: int) -> str:
    """
    >>> bytes_for_people(512), bytes_for_people(4 << 20), bytes_for_people(1536)
    ('512 B', '4.0 MiB', '1.5 KiB')
    """
    value, unit = float(count), 0
    while value >= 1024 and unit < 6:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if not unit else f"{value:.1f} {'KMGTPE'[unit - 1]}iB"
