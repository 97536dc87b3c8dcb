"""A histogram of durations with buckets of one per cent: percentiles without keeping the values."""

from collections.abc import Sequence
from math import exp, log

_SMALLEST_S = 0.001
_BUCKETS_PER_E = 100
"""Buckets per factor e, so neighbours differ by one per cent."""


class DurationHistogram:
    __slots__ = ("_counts", "_total_s", "count", "longest_s")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._total_s = 0.0
        self.count = 0
        self.longest_s = 0.0

    def add(self, seconds: float) -> None:
        bucket = (
            int(log(seconds / _SMALLEST_S) * _BUCKETS_PER_E) + 1 if seconds > _SMALLEST_S else 0
        )
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self._total_s += seconds
        self.count += 1
        self.longest_s = max(self.longest_s, seconds)

    @property
    def mean_s(self) -> float | None:
        return self._total_s / self.count if self.count else None

    def percentiles(self, percents: Sequence[float]) -> list[float | None]:
        """Return the values at these ascending percents, `None` without durations."""
        if not self.count:
            return [None] * len(percents)
        found, seen, buckets = list[float | None](), 0, iter(sorted(self._counts.items()))
        bucket = 0
        for percent in percents:
            rank = max(percent * self.count / 100, 1)
            while seen < rank:
                bucket, count = next(buckets)
                seen += count
            found.append(min(_middle_of(bucket), self.longest_s))
        return found


def _middle_of(bucket: int) -> float:
    if bucket == 0:
        return 0.0
    return _SMALLEST_S * exp((bucket - 0.5) / _BUCKETS_PER_E)
