"""The most recent jobs with their events, for the list of jobs and the timeline of one.

A bounded number is kept in memory. After a start they are restored from the end of the topic.
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
"""Events kept of one job: a post takes six to eight, each further attempt about three."""


@dataclass(slots=True)
class _JobEvents:
    """A job's events in the order of arrival, and the time of the latest one."""

    events: list[JobEvent]
    changed: datetime


class RecentJobs:
    """The jobs with the latest events, at most `kept`."""

    def __init__(self, *, kept: int) -> None:
        self._kept = kept
        self._jobs: OrderedDict[int, _JobEvents] = OrderedDict()
        """By the id's integer value: iteration hashes every key, and hashing a UUID is slow."""

    def add_event(self, event: JobEvent) -> None:
        known = self._jobs.get(event.job.int)
        if known is None:
            self._jobs[event.job.int] = _JobEvents([event], event.at)
            if len(self._jobs) > self._kept:
                self._jobs.popitem(last=False)
            return
        self._jobs.move_to_end(event.job.int)
        known.changed = max(known.changed, event.at)
        known.events.append(event)
        if len(known.events) > EVENTS_KEPT:
            known.events = _in_order(known.events)[-EVENTS_KEPT:]

    def latest_rows(self, limit: int) -> list[dict[str, Any]]:
        """Return rows of the jobs that changed last, the latest first."""
        latest = nlargest(limit, self._jobs.values(), key=attrgetter("changed"))
        return [job_row(_in_order(known.events)) for known in latest]

    def timeline(self, wanted: UUID) -> dict[str, Any] | None:
        known = self._jobs.get(wanted.int)
        return job_timeline(_in_order(known.events)) if known else None


def _in_order(events: Iterable[JobEvent]) -> list[JobEvent]:
    """Return each event once, sorted by time. A repeat has the same id and time."""
    once = {(event.event_id(), event.at): event for event in events}
    return sorted(once.values(), key=lambda event: (event.attempt, event.at))


def job_row(events: list[JobEvent]) -> dict[str, Any]:
    """Return a job's row for the list, from its events in order."""
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


def job_timeline(events: list[JobEvent]) -> dict[str, Any]:
    """Return a job's row with all its events, from the request to the end."""
    first = events[0]
    entries = [_entry(first.created_at, "queued", attempt=0)]
    entries += [entry for event in events for entry in _entries(event)]
    return job_row(events) | {"events": sorted(entries, key=lambda entry: entry["at"])}


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
