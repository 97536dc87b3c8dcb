"""Events and reports for tests of metrics, and the state that counts them."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.monitored_values import Completeness, MonitoredValues
from services.metrics.counting.event_counter import LocalState, count_events
from services.metrics.counting.rules.timeline import RecentJobs
from services.metrics.counting.shards import ShardTable
from services.metrics.counting.stats_view import StatsView
from services.metrics.reconcile.rules import Drift
from shared.domain.budget import BudgetState
from shared.domain.job import Status
from shared.domain.messages import (
    EventKind,
    FairnessWindow,
    JobEvent,
    LimiterReport,
    SchedulerReport,
    StoreQueueReport,
    Usage,
    WorkerReport,
)

NOW = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)
DRIFT = Drift(at=NOW, hours=24, jobs=4, cost_nanousd=7)


def job_events(
    number: int, store: str = "a", *, failed: bool = False, retries: int = 0
) -> list[JobEvent]:
    """Return all events of one job, in order; it ends at `NOW`."""
    requested_at = NOW - timedelta(seconds=20)
    admitted = JobEvent(
        job=UUID(int=number),
        store=store,
        kind=EventKind.ADMITTED,
        status=Status.PENDING,
        attempt=0,
        at=requested_at,
        created_at=requested_at,
    )
    events = [admitted]
    for attempt in range(1, retries + 2):
        started = replace(
            admitted,
            attempt=attempt,
            kind=EventKind.STARTED,
            status=Status.PROCESSING,
            at=requested_at + timedelta(seconds=3),
            started_at=requested_at + timedelta(seconds=3),
        )
        events += [started, replace(started, kind=EventKind.STEP_DONE, step="outline")]
        usage = Usage(
            input_tokens=10 * attempt,
            output_tokens=20 * attempt,
            images=1,
            cost_nanousd=100 * attempt,
        )
        if attempt <= retries:
            events.append(
                replace(started, kind=EventKind.RETRY, status=Status.PENDING, usage=usage)
            )
        else:
            status = Status.FAILED if failed else Status.DONE
            events.append(
                replace(started, kind=EventKind.ENDED, status=status, at=NOW, usage=usage)
            )
    return events


def retried_job_events(number: int) -> list[JobEvent]:
    """Return the events of a job that fails, is retried by a user, and is done."""
    events = job_events(number, failed=True)
    retry = replace(events[0], at=NOW + timedelta(seconds=1))
    started = replace(events[1], attempt=2, at=NOW + timedelta(seconds=2))
    done = replace(events[-1], attempt=2, at=NOW + timedelta(seconds=9), status=Status.DONE)
    return [*events, retry, started, done]


def shift_events(events: list[JobEvent], seconds: float) -> list[JobEvent]:
    """Return the same events with all times shifted."""
    delta = timedelta(seconds=seconds)
    return [
        replace(
            event,
            at=event.at + delta,
            created_at=event.created_at + delta,
            started_at=event.started_at + delta if event.started_at else None,
        )
        for event in events
    ]


def make_local_state(*, jobs: int = 100) -> LocalState:
    return LocalState(
        reports=LatestReports(silence_s=10), stats=StatsView(), recent=RecentJobs(kept=jobs)
    )


def count_in_new_table(
    events: list[JobEvent], *, batch: int = 1
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (aggregates by store, total) after these events.

    Asserts that a view rebuilt from the table alone is the same.
    """
    table: dict[bytes, bytes] = {}
    shards = ShardTable(table, kept=2)
    local, rebuilt = make_local_state(), StatsView()
    for first in range(0, len(events), batch):
        count_events(events[first : first + batch], shards, local)
    asyncio.run(rebuilt.rebuild((key.decode(), value) for key, value in table.items()))
    assert (rebuilt.stores, rebuilt.total) == (local.stats.stores, local.stats.total)
    return local.stats.stores, local.stats.total


def make_worker_report(
    worker: str, *, at: datetime = NOW, used: float = 100, queued: int = 2
) -> WorkerReport:
    states = tuple(
        LimiterReport(
            provider="openai",
            model="m",
            resource=resource,
            limit=limit,
            share=limit / 2,
            level=1,
            used=used,
            queued=queued,
        )
        for resource, limit in (("requests", 500.0), ("tokens", 200_000.0))
    )
    return WorkerReport(
        worker=worker,
        at=at,
        started_at=NOW,
        partitions=(0,),
        slots=50,
        running=3,
        limiters=states,
        standin=True,
        standins=("replicate",),
    )


def make_scheduler_report(pending: int, *, epoch: int = 1, at: datetime = NOW) -> SchedulerReport:
    return SchedulerReport(
        scheduler="s",
        at=at,
        epoch=epoch,
        pending=pending,
        in_flight=4,
        oldest_pending_at=NOW - timedelta(seconds=9),
        stores=(
            StoreQueueReport(
                store="a", queued=pending, in_flight=4, served_nanousd=1, budget=BudgetState.WARNING
            ),
        ),
        stores_warned=2,
        stores_stopped=5,
        fairness=FairnessWindow(
            began_at=NOW - timedelta(minutes=1),
            seconds=60,
            contenders=2,
            jain=0.98,
            largest_gap_nanousd=2e9,
            light_stores=1,
            light_slowdown=1.02,
        ),
    )


def make_completeness() -> Completeness:
    """Return a complete answer's values, with some lag, dead letters and a malformed event."""
    drift = Drift(at=NOW, hours=24, jobs=0, cost_nanousd=0)
    monitored = MonitoredValues(lag={"admit": 4}, dead_letters=2, drift=drift)
    return Completeness(monitored=monitored, malformed=1)
