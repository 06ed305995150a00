"""How long answers took: a histogram of 64 buckets for each power of two, so that a percentile is within 1.6 %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Times"]

_Buckets = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Times:
    """Requests that were answered without an error: how many, their bytes, and nanoseconds from sent to answered.

    `buckets` are (the most nanoseconds that fall into it, requests in it), ascending.

    >>> times = Times(count=4, bytes=16384, sum=1000, least=100, most=400, buckets=((100, 2), (255, 1), (403, 1)))
    >>> times.mean, times.percentile(50), times.percentile(99.9)
    (250, 100, 400)
    """

    count: int = 0
    bytes: int = 0
    sum: int = 0
    least: int = 0
    most: int = 0
    buckets: _Buckets = ()

    @classmethod
    def of(cls, counted: Mapping[str, Any]) -> Times:
        """From the dictionary of omavol._fastio.LoadLoop."""
        return cls(**{**counted, "buckets": tuple(counted["buckets"])})

    def __add__(self, other: Times) -> Times:
        if not self.count or not other.count:
            return self if self.count else other
        merged: dict[int, int] = dict(self.buckets)
        for most, count in other.buckets:
            merged[most] = merged.get(most, 0) + count
        return Times(
            self.count + other.count,
            self.bytes + other.bytes,
            self.sum + other.sum,
            min(self.least, other.least),
            max(self.most, other.most),
            tuple(sorted(merged.items())),
        )

    @property
    def mean(self) -> int:
        """Nanoseconds; 0 where nothing was answered."""
        return self.sum // self.count if self.count else 0

    def percentile(self, percent: float) -> int:
        """Nanoseconds within which `percent` of the requests were answered; 0 where nothing was."""
        wanted = self.count * percent / 100
        seen = 0
        for most, count in self.buckets:
            seen += count
            if seen >= wanted:
                return max(self.least, min(most, self.most))
        return self.most
