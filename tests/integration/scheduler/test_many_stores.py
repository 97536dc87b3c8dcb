"""Crowds on the real broker: the leader killed in the middle of two thousand jobs, and one store's flood of five."""

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

from services.scheduler.fair_queue.fairness import jain
from shared.domain.messages import BlogRequested, EventKind, JobEvent
from shared.kafka.publisher import Outgoing
from shared.kafka.topics import REQUESTS, RESULTS
from tests.support.environment import World, a_request
from tests.support.eventually import eventually
from tests.support.fake_worker import PlayedWorker, a_played_worker
from tests.support.processes import environment
from tests.support.scheduler import Start, admitted, leads, started

STORES, EACH = 50, 40


@asynccontextmanager
async def a_process(world: World, database: str) -> AsyncIterator[Process]:
    """A scheduler as operators run it, to be killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.scheduler", env=environment(world, database), stdout=DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ask_all(world: World, requests: list[BlogRequested]) -> None:
    await world.publisher.publish_all(
        [Outgoing(topic=REQUESTS, key=request.store, message=request) for request in requests]
    )


async def _has_done(worker: PlayedWorker, count: int) -> bool:
    return len(worker.done) >= count


async def _leader(world: World) -> str:
    return str(await world.database.fetchval("SELECT holder FROM scheduler_leader") or "")


async def endings(world: World) -> Counter[UUID]:
    events = {
        event.event_id(): event
        for _, event in await world.read_all(RESULTS)
        if isinstance(event, JobEvent)
    }
    return Counter(event.job for event in events.values() if event.kind is EventKind.ENDED)


@pytest.mark.timeout(240)
async def test_the_leader_is_killed_in_the_middle_of_two_thousand_jobs(
    world: World, database: str
) -> None:
    requests = [a_request(store=f"store-{number % STORES}") for number in range(STORES * EACH)]
    async with a_process(world, database) as first, a_process(world, database) as second:
        leader = await eventually(partial(_leader, world))
        by_pid = {str(process.pid): process for process in (first, second)}
        await ask_all(world, requests)
        await eventually(partial(admitted, world, len(requests)))
        async with a_played_worker(world, database, slots=50) as worker:
            await eventually(partial(_has_done, worker, 700))
            victim = by_pid[leader.rpartition("-")[2]]
            victim.kill()
            killed_at, done_at_the_kill = time.monotonic(), len(worker.done)
            in_the_gap = [a_request(store=f"store-{number}") for number in range(STORES)]
            await ask_all(
                world, in_the_gap
            )  # what comes while the group elects waits for whoever is elected
            await eventually(lambda: _has_other_leader(world, leader), timeout=60)
            print(f"the standby led {time.monotonic() - killed_at:.1f} s after the kill")
            await eventually(partial(_has_done, worker, done_at_the_kill + 700), timeout=60)
            across = Counter[str]()
            for _, store, cost in worker.done[: done_at_the_kill + 700]:
                across[store] += cost
            requests += in_the_gap
            await eventually(partial(_has_done, worker, len(requests)), timeout=60)
            await eventually(lambda: _all_charged(world))
    ids = {request.id for request in requests}
    assert Counter(job for job, _, _ in worker.done) == Counter(dict.fromkeys(ids, 1))
    assert await endings(world) == Counter(dict.fromkeys(ids, 1))
    assert jain([across[f"store-{number}"] for number in range(STORES)]) >= 0.98
    statuses = await world.database.fetch(
        "SELECT status, max(attempt) AS attempt FROM blog_generations GROUP BY 1"
    )
    assert [tuple(row) for row in statuses] == [("DONE", 1)]


async def _all_charged(world: World) -> bool:
    query = (
        "SELECT bool_and(charged_nanousd = cost_nanousd AND cost_nanousd > 0) FROM blog_generations"
    )
    return bool(await world.database.fetchval(query))


async def _has_other_leader(world: World, leader: str) -> bool:
    return await _leader(world) != leader


@pytest.fixture
def start(world: World, database: str) -> Start:
    return partial(started, world, database)


@pytest.mark.timeout(240)
async def test_a_flood_of_one_store_holds_up_no_other(
    world: World, start: Start, database: str
) -> None:
    flood = [a_request(store="flood") for _ in range(5_000)]
    light = [a_request(store=f"light-{number % 9}") for number in range(90)]
    async with start(max_pending_per_store=10_000):
        await eventually(partial(leads, world, "scheduler-1"))
        await ask_all(world, flood)
        await eventually(partial(admitted, world, len(flood)), timeout=60)
        async with a_played_worker(world, database, slots=50) as worker:
            await eventually(partial(_has_done, worker, 500))
            before = len(worker.done)
            await ask_all(world, light)
            await eventually(
                lambda: sum(store != "flood" for _, store, _ in worker.done) == len(light)
            )
            last = max(place for place, (_, store, _) in enumerate(worker.done) if store != "flood")
    overtaken = sum(store == "flood" for _, store, _ in worker.done[before:last])
    # Fair: 10 of the flood beside ten of each light store, those that were in flight, and those admitted before them.
    assert overtaken <= 600, f"{overtaken} jobs of the flood went before the last light one"
