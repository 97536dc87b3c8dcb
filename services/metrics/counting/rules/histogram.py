"""Histograms of seconds that merge: counts in fixed buckets, so that stores, minutes and processes add up."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

BOUNDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 900, 1800, 3600, 7200, 14_400)
"""Upper bounds in seconds; one more bucket holds all above."""

Histogram = list[int]
Sparse = dict[str, int]
"""The same by the bucket's number, without the empty ones: many windows hold few values."""


def empty() -> Histogram:
    return [0] * (len(BOUNDS) + 1)


def bucket_index(seconds: float) -> int:
    return bisect_left(BOUNDS, seconds)


def observe(histogram: Sequence[int], seconds: float) -> Histogram:
    counts = list(histogram)
    counts[bucket(seconds)] += 1
    return counts


def merge(histograms: Iterable[Sequence[int]]) -> Histogram:
    return [sum(counts) for counts in zip(empty(), *histograms, strict=True)]


def sum_sparse(parts: Iterable[Mapping[str, int]]) -> Histogram:
    """The sum of sparse histograms."""
    counts = empty()
    for part in parts:
        for index, count in part.items():
            counts[int(index)] += count
    return counts


def percentile(histogram: Sequence[int], percent: float) -> float | None:
    """The value below which `percent` of what was observed lies, interpolated within its bucket; None of nothing."""
    total = sum(histogram)
    if total == 0:
        return None
    rank, seen = total * percent / 100, 0
    for index, count in enumerate(histogram):
        if count and seen + count >= rank:
            lower = BOUNDS[index - 1] if index else 0.0
            upper = BOUNDS[index] if index < len(BOUNDS) else BOUNDS[-1]
            within = (rank - seen) / count
            return min(
                upper, lower + (upper - lower) * within
            )  # rounding must not leave the bucket
        seen += count
    return BOUNDS[-1]
