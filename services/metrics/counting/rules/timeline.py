"""The latest jobs with all that was heard of them: for a person who asks what became of one.

A bounded number is kept, in memory; after a start they are heard again from the end of the topic.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest
from operator import attrgetter
from typing import Any
from uuid import UUID

from shared.domain.job import ENDED
from shared.domain.messages import EventKind, JobEvent

EVENTS_KEPT = 100
"""Of one job: a post takes six to eight, and three a further attempt."""


@dataclass(slots=True)
class _Heard:
    """What was heard of a job, as it came, and the time of the latest of it."""

    events: list[JobEvent]
    changed: datetime


class RecentJobs:
    """The jobs that were heard of last, `kept` at the most."""

    def __init__(self, *, kept: int) -> None:
        self._kept = kept
        self._jobs: OrderedDict[int, _Heard] = OrderedDict()
        """By the id's number: going through an ordered dict asks every key for its hash, and a UUID's is slow."""

    def add_report(self, event: JobEvent) -> None:
        heard = self._jobs.get(event.job.int)
        if heard is None:
            self._jobs[event.job.int] = _Heard([event], event.at)
            if len(self._jobs) > self._kept:
                self._jobs.popitem(last=False)
            return
        self._jobs.move_to_end(event.job.int)
        heard.changed = max(heard.changed, event.at)
        heard.events.append(event)
        if len(heard.events) > EVENTS_KEPT:
            heard.events = _in_order(heard.events)[-EVENTS_KEPT:]

    def jobs(self, limit: int) -> list[dict[str, Any]]:
        """The jobs that changed last, the latest first."""
        latest = nlargest(limit, self._jobs.values(), key=attrgetter("changed"))
        return [job(_in_order(heard.events)) for heard in latest]

    def timeline(self, wanted: UUID) -> dict[str, Any] | None:
        heard = self._jobs.get(wanted.int)
        return timeline(_in_order(heard.events)) if heard else None


def _in_order(events: Iterable[JobEvent]) -> list[JobEvent]:
    """Each event once, by time; a repeat has the id and the time of the first."""
    once = {(event.event_id(), event.at): event for event in events}
    return sorted(once.values(), key=lambda event: (event.attempt, event.at))


def job(events: list[JobEvent]) -> dict[str, Any]:
    """A row of the list, from a job's events in order."""
    last = events[-1]
    started = next((event.started_at for event in events if event.started_at is not None), None)
    return {
        "job": last.job,
        "store": last.store,
        "status": last.status,
        "attempt": last.attempt,
        "createdAt": last.created_at,
        "startedAt": started,
        "finishedAt": last.at if last.status in ENDED else None,
        "changedAt": last.at,
        "waitSeconds": _seconds(last.created_at, started),
        "costUsd": max(event.usage.cost_nanousd for event in events) / 1e9,
        "error": last.error,
    }


def timeline(events: list[JobEvent]) -> dict[str, Any]:
    """A job and all that was heard of it, from the request to the end."""
    first = events[0]
    told = [_entry(first.created_at, "queued", attempt=0)]
    told += [entry for event in events for entry in _entries(event)]
    return job(events) | {"events": sorted(told, key=lambda entry: entry["at"])}


def _entries(event: JobEvent) -> Iterator[dict[str, Any]]:
    if event.kind is EventKind.STARTED and event.forwarded_at is not None:
        yield _entry(event.forwarded_at, "forwarded", attempt=event.attempt)
    yield _entry(
        event.at,
        event.kind.value,
        attempt=event.attempt,
        step=event.step,
        worker=event.worker,
        limit_wait_s=event.limit_wait_s,
        error=event.error,
    )


def _entry(
    at: datetime,
    kind: str,
    *,
    attempt: int,
    step: str | None = None,
    worker: str | None = None,
    limit_wait_s: float | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    return {
        "at": at,
        "kind": kind,
        "attempt": attempt,
        "step": step,
        "worker": worker,
        "limitWaitSeconds": limit_wait_s,
        "error": error,
    }


def _seconds(since: datetime, until: datetime | None) -> float | None:
    return round((until - since).total_seconds(), 3) if until is not None else None
