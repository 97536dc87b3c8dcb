"""The scheduler on the real broker and database: admission, dispatch, settlement and sweep."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest

from shared.domain.job import Status
from shared.domain.messages import EventKind, JobEvent, SchedulerReport
from shared.kafka.topics import RESULTS, WORKERS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.ingest import insert
from tests.support.scheduler import (
    StartScheduler,
    finish_job,
    has_job_count,
    is_settled,
    publish_worker_report,
    read_tasks,
    read_tasks_at_least,
    start_scheduler,
)


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(start_scheduler, backend, database)


async def test_requests_are_admitted_once_and_announced(
    backend: Backend, start: StartScheduler
) -> None:
    one, other = make_request(), make_request(store="store-b")
    async with start():
        for request in (one, other, one):
            await backend.submit(request)
        await eventually(partial(has_job_count, backend, 2))
        await backend.submit(last := make_request())
        await eventually(partial(has_job_count, backend, 3))
    row = await backend.row(one.id)
    assert (row["status"], row["instance_id"], row["source_id"]) == ("PENDING", "store-a", "tea")
    assert row["request"]["title"] == "Green tea"
    events = [
        event for _, event in await backend.read_records(RESULTS) if isinstance(event, JobEvent)
    ]
    assert {event.event_id() for event in events} == {
        JobEvent(
            job=request.id,
            store=request.store,
            kind=EventKind.ADMITTED,
            status=Status.PENDING,
            attempt=0,
            at=request.created_at,
            created_at=request.created_at,
        ).event_id()
        for request in (one, other, last)
    }


async def test_repeated_request_is_announced_only_while_untouched(
    backend: Backend, start: StartScheduler
) -> None:
    """Metrics would count a late announcement as a new job."""
    lost, done, last = make_request(), make_request(), make_request()
    await insert(backend, lost)  # a crash lost the announcement
    async with start():
        await backend.submit(done)
        await eventually(partial(has_job_count, backend, 2))
        await finish_job(backend, done)
        await eventually(partial(is_settled, backend, done.id))
        for request in (lost, replace(done, created_at=datetime.now(UTC)), last):
            await backend.submit(request)
        await eventually(partial(has_job_count, backend, 3))
    events = [
        event for _, event in await backend.read_records(RESULTS) if isinstance(event, JobEvent)
    ]
    announced = [event for event in events if event.kind is EventKind.ADMITTED]
    assert Counter(event.job for event in announced) == {lost.id: 1, done.id: 1, last.id: 1}
    assert [event.at for event in announced if event.job == lost.id] == [lost.created_at]


async def test_user_actions_without_event_are_published(
    backend: Backend, start: StartScheduler
) -> None:
    cancelled, retried = make_request(), make_request()
    await insert(backend, retried, "FAILED")
    async with start():
        await backend.submit(cancelled)
        await eventually(partial(has_job_count, backend, 2))
        for request, status, attempt in ((cancelled, "CANCELLED", 0), (retried, "PENDING", 1)):
            await backend.database.execute(
                "UPDATE blog_generations SET status = $2, attempt = $3, intervened_at = now(),"
                " finished_at = CASE $2 WHEN 'CANCELLED' THEN now() END WHERE id = $1",
                request.id,
                status,
                attempt,
            )
        await eventually(
            lambda: _has_event(backend, cancelled.id, (EventKind.ENDED, Status.CANCELLED, 0)),
            every=0.3,
        )
        await eventually(
            lambda: _has_event(backend, retried.id, (EventKind.ADMITTED, Status.PENDING, 1)),
            every=0.3,
        )


async def _has_event(backend: Backend, job: UUID, expected: tuple[EventKind, Status, int]) -> bool:
    events = [
        event
        for _, event in await backend.read_records(RESULTS)
        if isinstance(event, JobEvent) and event.job == job
    ]
    return expected in [(event.kind, event.status, event.attempt) for event in events]


async def test_dispatch_needs_credit(backend: Backend, start: StartScheduler) -> None:
    async with start():
        requests = [make_request() for _ in range(5)]
        for request in requests:
            await backend.submit(request)
        await eventually(partial(has_job_count, backend, 5))
        await publish_worker_report(backend, slots=2)
        first = await eventually(partial(read_tasks_at_least, backend, 2), every=0.3)
        await finish_job(backend, requests[0])
        await eventually(partial(is_settled, backend, requests[0].id))
        all_tasks = await eventually(partial(read_tasks_at_least, backend, 3), every=0.3)
    assert {task.job for task in first} == {requests[0].id, requests[1].id}
    assert len(all_tasks) == 3
    assert {task.epoch for task in all_tasks} == {1}


async def test_store_stays_at_its_cap_while_others_wait(
    backend: Backend, start: StartScheduler
) -> None:
    async with start(max_per_instance=3):
        flood = [make_request(store="flood") for _ in range(10)]
        few = [make_request(store="few") for _ in range(2)]
        for request in (*flood, *few):
            await backend.submit(request)
        await eventually(partial(has_job_count, backend, 12))
        await publish_worker_report(backend, slots=5)
        sent = await eventually(partial(read_tasks_at_least, backend, 5), every=0.3)
    stores = [task.store for task in sent]
    assert (stores.count("flood"), stores.count("few")) == (3, 2)


async def test_delayed_request_is_not_dispatched_early(
    backend: Backend, start: StartScheduler
) -> None:
    later = make_request(run_at=datetime.now(UTC) + timedelta(seconds=3))
    async with start():
        await publish_worker_report(backend, slots=5)
        await backend.submit(later)
        await backend.submit(now := make_request())
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        assert [task.job for task in await read_tasks(backend)] == [now.id]
        sent = await eventually(partial(read_tasks_at_least, backend, 2), every=0.2)
    assert sent[1].forwarded_at >= (later.run_at or now.created_at)


async def test_job_cost_is_charged_to_the_store_once(
    backend: Backend, start: StartScheduler
) -> None:
    request = make_request()
    async with start():
        await publish_worker_report(backend, slots=1)
        await backend.submit(request)
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        await finish_job(backend, request, cost=777)
        await finish_job(backend, request, cost=777)
        await eventually(partial(is_settled, backend, request.id))
        await backend.submit(follower := make_request())
        await eventually(partial(read_tasks_at_least, backend, 2), every=0.2)
    saved = await backend.database.fetchrow("SELECT * FROM stores WHERE instance_id = 'store-a'")
    assert saved is not None
    assert (saved["served_nanousd"], saved["mean_cost_nanousd"], saved["settled_jobs"]) == (
        777,
        777,
        1,
    )
    assert (await backend.row(follower.id))["estimate_nanousd"] == 777


async def test_expired_lease_returns_job_to_queue(backend: Backend, start: StartScheduler) -> None:
    request = make_request()
    async with start(lease_s=0.1):
        await publish_worker_report(backend, slots=1)
        await backend.submit(request)
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        await backend.database.execute(
            "UPDATE blog_generations SET status = 'PROCESSING', attempt = 1, worker = 'dead',"
            " lease_until = now() - interval '1 s' WHERE id = $1",
            request.id,
        )
        sent = await eventually(partial(read_tasks_at_least, backend, 2), every=0.3)
    assert [(task.job, task.forward) for task in sent] == [(request.id, 1), (request.id, 2)]
    events = [
        event for _, event in await backend.read_records(RESULTS) if isinstance(event, JobEvent)
    ]
    assert [event.error for event in events if event.kind is EventKind.RETRY] == [
        "the worker's lease ran out"
    ]


async def test_expired_lease_is_kept_at_the_start_of_a_session(
    backend: Backend, start: StartScheduler
) -> None:
    """PostgreSQL may have been unavailable: workers get `lease_s` seconds to renew their leases."""
    await backend.insert_dispatched(request := make_request())
    await backend.database.execute(
        "UPDATE blog_generations SET status = 'PROCESSING', attempt = 1, worker = 'alive',"
        " lease_until = now() - interval '1 minute' WHERE id = $1",
        request.id,
    )
    async with start(lease_s=3_600):
        # Reports come every second, sweeps every half second.
        await eventually(partial(_has_reports, backend, 4), every=0.2)
        assert await backend.has_status(request.id, "PROCESSING")
    async with start(lease_s=0.1):
        await eventually(partial(backend.has_status, request.id, "PENDING"))


async def _has_reports(backend: Backend, count: int) -> bool:
    return (
        sum(
            isinstance(report, SchedulerReport) for _, report in await backend.read_records(WORKERS)
        )
        >= count
    )


async def test_unclaimed_job_is_dispatched_again(backend: Backend, start: StartScheduler) -> None:
    async with start(forward_timeout_s=1):
        await publish_worker_report(backend, slots=1)
        await backend.submit(request := make_request())
        sent = await eventually(partial(read_tasks_at_least, backend, 2), every=0.3)
    assert {task.job for task in sent} == {request.id}


async def test_cancelled_waiting_job_is_skipped(backend: Backend, start: StartScheduler) -> None:
    cancelled, next_one = make_request(), make_request()
    async with start():
        await backend.submit(cancelled)
        await backend.submit(next_one)
        await eventually(partial(has_job_count, backend, 2))
        await backend.database.execute(
            "UPDATE blog_generations SET status = 'CANCELLED' WHERE id = $1", cancelled.id
        )
        await publish_worker_report(backend, slots=1)
        sent = await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
    assert [task.job for task in sent] == [next_one.id]


async def test_reconciliation_finds_a_missed_result(
    backend: Backend, start: StartScheduler
) -> None:
    first, second = make_request(), make_request()
    async with start():
        await publish_worker_report(backend, slots=1)
        await backend.submit(first)
        await backend.submit(second)
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        await backend.database.execute(
            "UPDATE blog_generations SET status = 'DONE', attempt = 1, cost_nanousd = 5,"
            " finished_at = now() WHERE id = $1",
            first.id,
        )
        sent = await eventually(partial(read_tasks_at_least, backend, 2), every=0.3)
    assert sent[1].job == second.id
    assert await is_settled(backend, first.id)


async def test_report_shows_the_backlog(backend: Backend, start: StartScheduler) -> None:
    async with start():
        for _ in range(3):
            await backend.submit(make_request())
        report = await eventually(partial(_report_of, backend, 3), every=0.3)
    assert report is not None
    assert [(queue.store, queue.queued) for queue in report.stores] == [("store-a", 3)]
    assert report.oldest_pending_at is not None


async def _report_of(backend: Backend, pending: int) -> SchedulerReport | None:
    reports = [
        report
        for _, report in await backend.read_records(WORKERS)
        if isinstance(report, SchedulerReport)
    ]
    return next((report for report in reports if report.pending == pending), None)


async def test_four_hundred_concurrent_requests_are_admitted(
    backend: Backend, start: StartScheduler
) -> None:
    async with start():
        await asyncio.gather(
            *(backend.submit(make_request(store=f"s{number % 7}")) for number in range(400))
        )
        await eventually(partial(has_job_count, backend, 400))
