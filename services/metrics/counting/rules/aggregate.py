"""What events add up to: for a store, a shard of one, a process, or all. Aggregates merge, and travel as JSON.

A summary holds what is kept for every store: counts by state, usage, waits and runs. The whole adds ends, windows by
minute and hour, by how much the queue grew in each minute, and cohorts: jobs by the hour in which they were asked for,
to compare with PostgreSQL.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from services.metrics.counting.rules import histogram
from shared.domain.job import Status

MINUTES_KEPT = 61
HOURS_KEPT = 25
COHORTS_KEPT = 26
BILLED = ("input_tokens", "output_tokens", "images", "cost_nanousd", "in_doubt")
"""The fields of `Usage`."""
_COST = BILLED.index("cost_nanousd")
_PENDING = Status.PENDING.value
_WORKED_ON = (Status.DONE.value, Status.FAILED.value)

Aggregate = dict[str, Any]
Window = list[Any]
"""[done, failed, waits, runs], the last two sparse histograms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an event adds to the aggregates of its store and of all."""

    left: str | None
    """The status that the job leaves, None when it is new."""
    entered: str
    billed: Sequence[int]
    """What was billed beside what had been known, in the order of `BILLED`."""
    minute: int
    """The minute of the event, counted from the epoch."""
    cohort: int
    """The hour in which the job was asked for, counted from the epoch."""
    wait_s: float | None = None
    run_s: float | None = None

    @property
    def ends(self) -> bool:
        return self.left != self.entered and self.entered in _WORKED_ON

    @property
    def queued(self) -> int:
        """By how much the queue grows: -1, 0 or 1."""
        return (self.entered == _PENDING) - (self.left == _PENDING)


def summary() -> Aggregate:
    return {
        "counts": {},
        "wait": histogram.empty(),
        "run": histogram.empty(),
        "wait_ms": 0,
        "run_ms": 0,
        **dict.fromkeys(BILLED, 0),
    }


def empty() -> Aggregate:
    return summary() | {"ended": {}, "minutes": {}, "hours": {}, "queued": {}, "cohorts": {}}


def ended(aggregate: Aggregate) -> dict[str, int]:
    """How often a job ended, by state: unlike `counts` it never falls, for a job that is asked for again and ends again
    counts twice. What was written before this was kept begins with the jobs that stand ended."""
    known: dict[str, int] | None = aggregate.get("ended")
    return (
        {status: aggregate["counts"].get(status, 0) for status in _WORKED_ON}
        if known is None
        else known
    )


def add(aggregate: Aggregate, change: Change) -> None:
    """Add a change to a whole aggregate."""
    ends = aggregate["ended"] = ended(aggregate)  # before the counts change
    if change.ends:
        ends[change.entered] = ends.get(change.entered, 0) + 1
    add_to_summary(aggregate, change)
    _add_to_windows(aggregate["minutes"], change.minute, change, kept=MINUTES_KEPT)
    _add_to_windows(aggregate["hours"], change.minute // 60, change, kept=HOURS_KEPT)
    _add_to_queued(
        aggregate.setdefault("queued", {}), change
    )  # what was written before this was kept has none
    cohort = aggregate["cohorts"].setdefault(str(change.cohort), {"cost": 0})
    _move(cohort, change)
    cohort["cost"] += change.billed[_COST]
    _prune(aggregate["cohorts"], COHORTS_KEPT)


def add_to_summary(aggregate: Aggregate, change: Change) -> None:
    _move(aggregate["counts"], change)
    for name, more in zip(BILLED, change.billed, strict=True):
        aggregate[name] += more
    if change.wait_s is not None:
        aggregate["wait"][histogram.bucket_index(change.wait_s)] += 1
        aggregate["wait_ms"] += round(change.wait_s * 1000)
    if change.run_s is not None:
        aggregate["run"][histogram.bucket_index(change.run_s)] += 1
        aggregate["run_ms"] += round(change.run_s * 1000)


def merge(aggregates: Iterable[Aggregate]) -> Aggregate:
    """The sum of several aggregates: shards, partitions, or processes; summaries count as wholes without windows."""
    total = empty()
    for part in aggregates:
        merge_into(total, part)
        for name, kept in (("minutes", MINUTES_KEPT), ("hours", HOURS_KEPT)):
            _merge_windows(total[name], part.get(name, {}), kept)
        _sum_into(total["ended"], ended(part))
        _sum_into(total["queued"], part.get("queued", {}))
        _prune(total["queued"], MINUTES_KEPT)
        for hour, cohort in part.get("cohorts", {}).items():
            _sum_into(total["cohorts"].setdefault(hour, {}), cohort)
        _prune(total["cohorts"], COHORTS_KEPT)
    return total


def merge_into(total: Aggregate, part: Aggregate) -> None:
    """Add a part's summary."""
    _sum_into(total["counts"], part["counts"])
    for name in ("wait", "run"):
        total[name] = [one + other for one, other in zip(total[name], part[name], strict=True)]
    for name in ("wait_ms", "run_ms", *BILLED):
        total[name] += part[name]


def in_last_minutes(aggregate: Aggregate, minutes: int, now: float) -> tuple[int, int]:
    """(done, failed) within the last whole `minutes` and the one that runs."""
    done, failed, _, _ = window(aggregate["minutes"], int(now // 60) - minutes)
    return done, failed


def window(
    windows: dict[str, Window], first: int
) -> tuple[int, int, histogram.Histogram, histogram.Histogram]:
    """(done, failed, waits, runs) of all windows from number `first` on."""
    recent = [counts for number, counts in windows.items() if int(number) >= first]
    return (
        sum(counts[0] for counts in recent),
        sum(counts[1] for counts in recent),
        histogram.sum_sparse(counts[2] for counts in recent),
        histogram.sum_sparse(counts[3] for counts in recent),
    )


def _move(counts: dict[str, int], change: Change) -> None:
    if change.left == change.entered:
        return
    if change.left is not None:
        counts[change.left] = counts.get(change.left, 0) - 1
    counts[change.entered] = counts.get(change.entered, 0) + 1


def _add_to_windows(windows: dict[str, Window], number: int, change: Change, *, kept: int) -> None:
    if not change.ends and change.wait_s is None:
        return
    counts = windows.setdefault(str(number), [0, 0, {}, {}])
    if change.ends:
        counts[change.entered == Status.FAILED] += 1
    for place, seconds in ((2, change.wait_s), (3, change.run_s)):
        if seconds is not None:
            index = str(histogram.bucket_index(seconds))
            counts[place][index] = counts[place].get(index, 0) + 1
    _prune(windows, kept)


def _add_to_queued(queued: dict[str, int], change: Change) -> None:
    if change.queued:
        minute = str(change.minute)
        queued[minute] = queued.get(minute, 0) + change.queued
        _prune(queued, MINUTES_KEPT)


def _merge_windows(windows: dict[str, Window], others: dict[str, Window], kept: int) -> None:
    for number, (done, failed, waits, runs) in others.items():
        counts = windows.setdefault(number, [0, 0, {}, {}])
        counts[0] += done
        counts[1] += failed
        _sum_into(counts[2], waits)
        _sum_into(counts[3], runs)
    _prune(windows, kept)


def _sum_into(total: dict[str, int], part: dict[str, int]) -> None:
    for name, count in part.items():
        total[name] = total.get(name, 0) + count


def _prune(windows: dict[str, Any], kept: int) -> None:
    """Forget all but the latest numbers."""
    if len(windows) > kept:
        first = max(map(int, windows)) - kept
        for number in [number for number in windows if int(number) <= first]:
            del windows[number]
