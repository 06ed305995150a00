"""What the reader sees: acts with numbers, facts beneath them, a bar on a terminal and plain lines otherwise."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

__all__ = ["Bar", "act", "fact", "mebibytes", "out"]

out = Console(highlight=False, soft_wrap=True)
PLAIN_INTERVAL = 1.0


def act(number: int, title: str) -> None:
    out.print(f"\n[bold]{number}. {title}[/bold]")


def fact(text: str) -> None:
    out.print(f"   {text}", markup=False)


def mebibytes(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"


class Bar:
    """Progress of one job in bytes. On a terminal a bar; else a line a second, and only while bytes move."""

    def __init__(self) -> None:
        self._last = (0.0, -1)
        self._progress = Progress(
            TextColumn("   {task.description:<32}"),
            BarColumn(12),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, total: int, what: str) -> None:
        """`done` of `total` bytes; `what` the step in words."""
        if out.is_terminal:
            self._progress.update(self._task, completed=done, total=total or None, description=what)
            return
        when, before = self._last
        if what and total and done != before and time.monotonic() - when >= PLAIN_INTERVAL:
            fact(f"{what}: {mebibytes(done)} of {mebibytes(total)}")
            self._last = (time.monotonic(), done)
