"""Many stores on the real broker: a killed leader, and the flood of one store."""

import asyncio
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID

import pytest

from services.scheduler.fair_queue.fairness import jain_index
from shared.domain.messages import BlogRequested, EventKind, JobEvent
from shared.kafka.publisher import OutgoingMessage
from shared.kafka.topics import REQUESTS, RESULTS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.fake_worker import FakeWorker, start_fake_worker
from tests.support.processes import environment
from tests.support.scheduler import StartScheduler, has_job_count, is_leader, start_scheduler

STORES, EACH = 50, 40


@asynccontextmanager
async def scheduler_process(backend: Backend, database: str) -> AsyncIterator[Process]:
    """Run a scheduler as a process that a test can kill."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.scheduler",
        env=environment(backend, database),
        stdout=DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def submit_all(backend: Backend, requests: list[BlogRequested]) -> None:
    await backend.publisher.publish_all(
        [
            OutgoingMessage(topic=REQUESTS, key=request.store, message=request)
            for request in requests
        ]
    )


async def _has_done(worker: FakeWorker, count: int) -> bool:
    return len(worker.done) >= count


async def _leader(backend: Backend) -> str:
    return str(await backend.database.fetchval("SELECT holder FROM scheduler_leader") or "")


async def count_end_events(backend: Backend) -> Counter[UUID]:
    events = {
        event.event_id(): event
        for _, event in await backend.read_records(RESULTS)
        if isinstance(event, JobEvent)
    }
    return Counter(event.job for event in events.values() if event.kind is EventKind.ENDED)


@pytest.mark.timeout(240)
async def test_killed_leader_loses_and_repeats_no_job(backend: Backend, database: str) -> None:
    requests = [make_request(store=f"store-{number % STORES}") for number in range(STORES * EACH)]
    async with (
        scheduler_process(backend, database) as first,
        scheduler_process(backend, database) as second,
    ):
        leader = await eventually(partial(_leader, backend))
        by_pid = {str(process.pid): process for process in (first, second)}
        await submit_all(backend, requests)
        await eventually(partial(has_job_count, backend, len(requests)))
        async with start_fake_worker(backend, database, slots=50) as worker:
            await eventually(partial(_has_done, worker, 700))
            victim = by_pid[leader.split("-")[-2]]
            victim.kill()
            killed_at, done_at_kill = time.monotonic(), len(worker.done)
            during_election = [make_request(store=f"store-{number}") for number in range(STORES)]
            await submit_all(backend, during_election)
            await eventually(lambda: _has_other_leader(backend, leader), timeout=60)
            print(f"the standby led {time.monotonic() - killed_at:.1f} s after the kill")
            await eventually(partial(_has_done, worker, done_at_kill + 700), timeout=60)
            across = Counter[str]()
            for _, store, cost in worker.done[: done_at_kill + 700]:
                across[store] += cost
            requests += during_election
            await eventually(partial(_has_done, worker, len(requests)), timeout=60)
            await eventually(lambda: _all_charged(backend))
    ids = {request.id for request in requests}
    assert Counter(job for job, _, _ in worker.done) == Counter(dict.fromkeys(ids, 1))
    assert await count_end_events(backend) == Counter(dict.fromkeys(ids, 1))
    assert jain_index([across[f"store-{number}"] for number in range(STORES)]) >= 0.98
    statuses = await backend.database.fetch(
        "SELECT status, max(attempt) AS attempt FROM blog_generations GROUP BY 1"
    )
    assert [tuple(row) for row in statuses] == [("DONE", 1)]


async def _all_charged(backend: Backend) -> bool:
    query = (
        "SELECT bool_and(charged_nanousd = cost_nanousd AND cost_nanousd > 0) FROM blog_generations"
    )
    return bool(await backend.database.fetchval(query))


async def _has_other_leader(backend: Backend, leader: str) -> bool:
    return await _leader(backend) != leader


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(start_scheduler, backend, database)


@pytest.mark.timeout(240)
async def test_flood_of_one_store_delays_no_other(
    backend: Backend, start: StartScheduler, database: str
) -> None:
    flood = [make_request(store="flood") for _ in range(5_000)]
    light = [make_request(store=f"light-{number % 9}") for number in range(90)]
    async with start(max_pending_per_store=10_000):
        await eventually(partial(is_leader, backend, "scheduler-1"))
        await submit_all(backend, flood)
        await eventually(partial(has_job_count, backend, len(flood)), timeout=60)
        async with start_fake_worker(backend, database, slots=50) as worker:
            await eventually(partial(_has_done, worker, 500))
            before = len(worker.done)
            await submit_all(backend, light)
            await eventually(
                lambda: sum(store != "flood" for _, store, _ in worker.done) == len(light)
            )
            last = max(place for place, (_, store, _) in enumerate(worker.done) if store != "flood")
    overtaken = sum(store == "flood" for _, store, _ in worker.done[before:last])
    # Fair: 10 beside ten of each light store, the jobs in flight, and those admitted before.
    assert overtaken <= 600, f"{overtaken} jobs of the flood went before the last light one"
