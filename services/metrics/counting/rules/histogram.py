"""Histograms of seconds with fixed buckets: those of stores, minutes and processes add up."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

BOUNDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 900, 1800, 3600, 7200, 14_400)
"""Upper bounds in seconds. One more bucket holds all larger values."""

Histogram = list[int]
Sparse = dict[str, int]
"""Counts by bucket index, without empty buckets: most windows hold few values."""


def empty() -> Histogram:
    return [0] * (len(BOUNDS) + 1)


def bucket_index(seconds: float) -> int:
    return bisect_left(BOUNDS, seconds)


def sum_sparse(parts: Iterable[Mapping[str, int]]) -> Histogram:
    """Return the sum of sparse histograms."""
    counts = empty()
    for part in parts:
        for index, count in part.items():
            counts[int(index)] += count
    return counts


def percentile(histogram: Sequence[int], percent: float) -> float | None:
    """Return a percentile of the observations, interpolated within its bucket.

    Returns `None` for an empty histogram.
    """
    total = sum(histogram)
    if total == 0:
        return None
    rank, seen = total * percent / 100, 0
    for index, count in enumerate(histogram):
        if count and seen + count >= rank:
            lower = BOUNDS[index - 1] if index else 0.0
            upper = BOUNDS[index] if index < len(BOUNDS) else BOUNDS[-1]
            within = (rank - seen) / count
            # A rounding error must not leave the bucket.
            return min(upper, lower + (upper - lower) * within)
        seen += count
    return BOUNDS[-1]
