"""How fast a copy is and when it ends, from samples of bytes done; pure, the clock is the caller's."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ["Progress"]

_WINDOW = 5.0  # seconds that the present rate looks back


@dataclass
class Progress:
    """Feed it (seconds, bytes done) in order; rates are bytes a second.

    >>> progress = Progress(total=1000)
    >>> for second, done in ((0, 0), (1, 100), (2, 300)): progress.sample(second, done)
    >>> progress.rate, progress.average, progress.peak, progress.eta
    (150.0, 150.0, 200.0, 4.666666666666667)
    """

    total: int
    done: int = 0
    peak: float = 0.0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _first: tuple[float, int] | None = None

    def sample(self, now: float, done: int) -> None:
        """Note where the copy stands; a second sample at the same time replaces the first."""
        if self._first is None:
            self._first = (now, done)
        if self._samples:
            before, had = self._samples[-1]
            if now > before:
                self.peak = max(self.peak, (done - had) / (now - before))
            else:
                self._samples.pop()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        self.done = done

    @property
    def rate(self) -> float:
        """Over the last seconds."""
        return self._between(self._samples[0] if self._samples else None)

    @property
    def average(self) -> float:
        """Since the first sample."""
        return self._between(self._first)

    @property
    def percent(self) -> float:
        """100 for a copy of nothing."""
        return 100.0 * self.done / self.total if self.total else 100.0

    @property
    def eta(self) -> float | None:
        """Seconds to go at the present rate; None while nothing moves."""
        left = self.total - self.done
        if left <= 0:
            return 0.0
        return left / self.rate if self.rate > 0 else None

    def _between(self, since: tuple[float, int] | None) -> float:
        if since is None or not self._samples:
            return 0.0
        seconds = self._samples[-1][0] - since[0]
        return (self._samples[-1][1] - since[1]) / seconds if seconds > 0 else 0.0
