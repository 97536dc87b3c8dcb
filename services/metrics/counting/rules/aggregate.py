"""Aggregates of events of a store, shard, process or cluster, to be merged or sent as JSON.

A summary, kept for every store, has counts by status, usage, waits and runs. A full aggregate adds
ends, windows by minute and hour, the growth of the queue in each minute, and cohorts: jobs by the
hour of their request, for the comparison with PostgreSQL.
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
"""The fields of `Usage` that are summed. `reasoning_tokens` are part of `output_tokens`."""
_COST = BILLED.index("cost_nanousd")
_PENDING = Status.PENDING.value
_WORK_ENDED = (Status.DONE.value, Status.FAILED.value)

Aggregate = dict[str, Any]
Window = list[Any]
"""[done, failed, waits, runs]; waits and runs are sparse histograms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsChange:
    """The difference that one event makes to the aggregates."""

    old_status: str | None
    """The job's status before the event; `None` for a new job."""
    new_status: str
    billed: Sequence[int]
    """The increase of the billed amounts, in the order of `BILLED`."""
    minute: int
    """Minutes from the epoch to the event."""
    cohort: int
    """Hours from the epoch to the job's request."""
    wait_s: float | None = None
    run_s: float | None = None

    @property
    def ends(self) -> bool:
        return self.old_status != self.new_status and self.new_status in _WORK_ENDED

    @property
    def queue_growth(self) -> int:
        """The growth of the queue: -1, 0 or 1."""
        return (self.new_status == _PENDING) - (self.old_status == _PENDING)


def empty_summary() -> Aggregate:
    return {
        "counts": {},
        "wait": histogram.empty(),
        "run": histogram.empty(),
        "wait_ms": 0,
        "run_ms": 0,
        **dict.fromkeys(BILLED, 0),
    }


def empty() -> Aggregate:
    return empty_summary() | {"ended": {}, "minutes": {}, "hours": {}, "queued": {}, "cohorts": {}}


def ends_by_status(aggregate: Aggregate) -> dict[str, int]:
    """Return how often jobs ended, by status.

    Unlike `counts` these numbers never fall: a retried job that ends again counts twice. Aggregates
    written before this field existed start with the jobs in an ended status.
    """
    known: dict[str, int] | None = aggregate.get("ended")
    return (
        {status: aggregate["counts"].get(status, 0) for status in _WORK_ENDED}
        if known is None
        else known
    )


def add_change(aggregate: Aggregate, change: StatsChange) -> None:
    """Add a change to a full aggregate."""
    ends = aggregate["ended"] = ends_by_status(aggregate)  # before the counts change
    if change.ends:
        ends[change.new_status] = ends.get(change.new_status, 0) + 1
    add_change_to_summary(aggregate, change)
    _add_to_windows(aggregate["minutes"], change.minute, change, kept=MINUTES_KEPT)
    _add_to_windows(aggregate["hours"], change.minute // 60, change, kept=HOURS_KEPT)
    # Aggregates written before this field existed lack it.
    _add_queue_growth(aggregate.setdefault("queued", {}), change)
    cohort = aggregate["cohorts"].setdefault(str(change.cohort), {"cost": 0})
    _move_count(cohort, change)
    cohort["cost"] += change.billed[_COST]
    _prune(aggregate["cohorts"], COHORTS_KEPT)


def add_change_to_summary(aggregate: Aggregate, change: StatsChange) -> None:
    _move_count(aggregate["counts"], change)
    for name, more in zip(BILLED, change.billed, strict=True):
        aggregate[name] += more
    if change.wait_s is not None:
        aggregate["wait"][histogram.bucket_index(change.wait_s)] += 1
        aggregate["wait_ms"] += round(change.wait_s * 1000)
    if change.run_s is not None:
        aggregate["run"][histogram.bucket_index(change.run_s)] += 1
        aggregate["run_ms"] += round(change.run_s * 1000)


def merge(aggregates: Iterable[Aggregate]) -> Aggregate:
    """Return the sum of aggregates of shards, partitions or processes.

    Summaries count as having no windows.
    """
    total = empty()
    for part in aggregates:
        merge_summary(total, part)
        for name, kept in (("minutes", MINUTES_KEPT), ("hours", HOURS_KEPT)):
            _merge_windows(total[name], part.get(name, {}), kept)
        _sum_into(total["ended"], ends_by_status(part))
        _sum_into(total["queued"], part.get("queued", {}))
        _prune(total["queued"], MINUTES_KEPT)
        for hour, cohort in part.get("cohorts", {}).items():
            _sum_into(total["cohorts"].setdefault(hour, {}), cohort)
        _prune(total["cohorts"], COHORTS_KEPT)
    return total


def merge_summary(total: Aggregate, part: Aggregate) -> None:
    """Add the summary fields of `part` to `total`."""
    _sum_into(total["counts"], part["counts"])
    for name in ("wait", "run"):
        total[name] = [one + other for one, other in zip(total[name], part[name], strict=True)]
    for name in ("wait_ms", "run_ms", *BILLED):
        total[name] += part[name]


def in_last_minutes(aggregate: Aggregate, minutes: int, now: float) -> tuple[int, int]:
    """Return (done, failed) of the last `minutes` whole minutes and the current one."""
    done, failed, _, _ = sum_windows(aggregate["minutes"], int(now // 60) - minutes)
    return done, failed


def sum_windows(
    windows: dict[str, Window], first: int
) -> tuple[int, int, histogram.Histogram, histogram.Histogram]:
    """Return (done, failed, waits, runs) of all windows from number `first` on."""
    recent = [counts for number, counts in windows.items() if int(number) >= first]
    return (
        sum(counts[0] for counts in recent),
        sum(counts[1] for counts in recent),
        histogram.sum_sparse(counts[2] for counts in recent),
        histogram.sum_sparse(counts[3] for counts in recent),
    )


def _move_count(counts: dict[str, int], change: StatsChange) -> None:
    if change.old_status == change.new_status:
        return
    if change.old_status is not None:
        counts[change.old_status] = counts.get(change.old_status, 0) - 1
    counts[change.new_status] = counts.get(change.new_status, 0) + 1


def _add_to_windows(
    windows: dict[str, Window], number: int, change: StatsChange, *, kept: int
) -> None:
    if not change.ends and change.wait_s is None:
        return
    counts = windows.setdefault(str(number), [0, 0, {}, {}])
    if change.ends:
        counts[change.new_status == Status.FAILED] += 1
    for index, seconds in ((2, change.wait_s), (3, change.run_s)):
        if seconds is not None:
            bucket = str(histogram.bucket_index(seconds))
            counts[index][bucket] = counts[index].get(bucket, 0) + 1
    _prune(windows, kept)


def _add_queue_growth(queued: dict[str, int], change: StatsChange) -> None:
    if change.queue_growth:
        minute = str(change.minute)
        queued[minute] = queued.get(minute, 0) + change.queue_growth
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
    """Remove all but the latest `kept` windows."""
    if len(windows) > kept:
        first = max(map(int, windows)) - kept
        for number in [number for number in windows if int(number) <= first]:
            del windows[number]
