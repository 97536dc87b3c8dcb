"""Folds a job's events into aggregates, so that an event heard twice, or late, changes nothing.

For every job its last state is kept (of ended jobs, the latest): (attempt, stage) only ever grows. What an event adds
is the difference between the job's new state and the one before, so counts and bills are exact however often it comes.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from services.metrics.rules import histogram
from shared.job import ENDED, Status
from shared.messages import EventKind, JobEvent, Usage

MINUTES_KEPT = 61

_STAGES = {
    EventKind.ADMITTED: 0,
    EventKind.STARTED: 1,
    EventKind.STEP_DONE: 2,
    EventKind.RETRY: 3,
    EventKind.ENDED: 4,
}
_USAGE = ("input_tokens", "output_tokens", "images", "cost_nanousd")

_SHARDS = 16
_ENDED_KEPT = 64

Seen = dict[str, Any]
Shard = dict[str, Any]
Aggregate = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an event adds to the aggregates of its store and of all."""

    left: Status | None
    """The status that the job leaves, None when it is new."""
    entered: Status
    usage: Usage
    minute: int
    """The minute of the event, counted from the epoch."""
    wait_s: float | None = None
    run_s: float | None = None


def change(event: JobEvent, seen: Seen | None) -> tuple[Seen, Change] | None:
    """The job's new state and what it adds; None for an event that says nothing new."""
    position = [event.attempt, _STAGES[event.kind]]
    if seen is not None and seen["position"] >= position:
        return None
    billed = dict.fromkeys(_USAGE, 0) if seen is None else seen["billed"]
    now_billed = {name: max(billed[name], getattr(event.usage, name)) for name in _USAGE}
    left = Status(seen["status"]) if seen is not None else None
    started = event.kind is EventKind.STARTED and event.attempt == 1 and event.started_at is not None
    ended = event.kind is EventKind.ENDED and event.started_at is not None
    assert event.started_at is not None or not (started or ended)
    return (
        {"position": position, "status": event.status.value, "billed": now_billed},
        Change(
            left=left,
            entered=event.status,
            usage=Usage(**{name: now_billed[name] - billed[name] for name in _USAGE}),
            minute=int(event.at.timestamp() // 60),
            wait_s=(event.started_at - event.created_at).total_seconds() if started and event.started_at else None,
            run_s=(event.at - event.started_at).total_seconds() if ended and event.started_at else None,
        ),
    )


def shard_key(event: JobEvent) -> str:
    """A store's jobs are spread over shards, so that an event rewrites little, however many jobs the store has."""
    return f"{event.store}|{event.job.int % _SHARDS}"


def into_shard(event: JobEvent, shard: Shard | None) -> Shard | None:
    """The shard after an event; None when the event changes nothing."""
    jobs = shard["jobs"] if shard is not None else {}
    folded = change(event, jobs.get(str(event.job)))
    if folded is None:
        return None
    seen, added = folded
    others = {job: state for job, state in jobs.items() if job != str(event.job)}
    aggregate = shard["aggregate"] if shard is not None else empty()
    return {"jobs": _kept(others | {str(event.job): seen}), "aggregate": apply(aggregate, added)}


def _kept(jobs: dict[str, Seen]) -> dict[str, Seen]:
    """All jobs that go on, and the last of those that ended: repeats come soon after, or never."""
    ended = [job for job, seen in jobs.items() if seen["status"] in ENDED]
    gone = set(ended[:-_ENDED_KEPT])
    return {job: seen for job, seen in jobs.items() if job not in gone}


def by_store(shards: Iterable[tuple[str, Shard]]) -> dict[str, Aggregate]:
    """What each store's shards add up to."""
    parts: dict[str, list[Aggregate]] = defaultdict(list)
    for key, shard in shards:
        parts[key.rpartition("|")[0]].append(shard["aggregate"])
    return {store: merge(aggregates) for store, aggregates in parts.items()}


def empty() -> Aggregate:
    return {
        "counts": {}, "wait": histogram.empty(), "run": histogram.empty(), "minutes": {},
        **dict.fromkeys(_USAGE, 0),
    }  # fmt: skip


def apply(aggregate: Aggregate, change: Change) -> Aggregate:
    """The aggregate after a change."""
    counts = dict(aggregate["counts"])
    if change.left is not change.entered:
        if change.left is not None:
            counts[change.left] = counts.get(change.left, 0) - 1
        counts[change.entered] = counts.get(change.entered, 0) + 1
    entered_end = change.left is not change.entered and change.entered in (Status.DONE, Status.FAILED)
    added = {name: aggregate[name] + getattr(change.usage, name) for name in _USAGE}
    wait, run = aggregate["wait"], aggregate["run"]
    return {
        "counts": counts,
        "wait": wait if change.wait_s is None else histogram.observe(wait, max(change.wait_s, 0)),
        "run": run if change.run_s is None else histogram.observe(run, max(change.run_s, 0)),
        "minutes": _count_minute(aggregate["minutes"], change) if entered_end else aggregate["minutes"],
        **added,
    }


def _count_minute(minutes: dict[str, list[int]], change: Change) -> dict[str, list[int]]:
    """Done and failed by minute, of the last hour."""
    kept = {minute: list(counts) for minute, counts in minutes.items() if int(minute) > change.minute - MINUTES_KEPT}
    done_failed = kept.setdefault(str(change.minute), [0, 0])
    done_failed[change.entered is Status.FAILED] += 1
    return kept


def merge(aggregates: list[Aggregate]) -> Aggregate:
    """The sum of several aggregates: partitions, or processes."""
    total = empty()
    total["wait"] = histogram.merge([part["wait"] for part in aggregates])
    total["run"] = histogram.merge([part["run"] for part in aggregates])
    for part in aggregates:
        for status, count in part["counts"].items():
            total["counts"][status] = total["counts"].get(status, 0) + count
        for minute, (done, failed) in part["minutes"].items():
            counted = total["minutes"].setdefault(minute, [0, 0])
            total["minutes"][minute] = [counted[0] + done, counted[1] + failed]
        for name in _USAGE:
            total[name] += part[name]
    return total


def in_last_minutes(aggregate: Aggregate, minutes: int, now: float) -> tuple[int, int]:
    """(done, failed) within the last whole `minutes` and the one that runs."""
    first = int(now // 60) - minutes
    recent = [counts for minute, counts in aggregate["minutes"].items() if int(minute) >= first]
    return sum(done for done, _ in recent), sum(failed for _, failed in recent)
