"""Who leads, what a newcomer may not take, and what a takeover leaves untouched."""

from contextlib import AsyncExitStack
from functools import partial

import asyncpg
import pytest

from services.scheduler.fair_queue.accounts import CounterChange
from services.scheduler.repository import DeposedError, SchedulerStore
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.environment import Said, World, a_request
from tests.support.eventually import eventually
from tests.support.scheduler import Start, admitted, at_least, end, epoch, leads, offer, started


@pytest.fixture
def start(world: World, database: str) -> Start:
    return partial(started, world, database)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


async def _forwarded(world: World, count: int) -> bool:
    return bool(
        await world.database.fetchval(
            "SELECT count(forwarded_at) = $1 FROM blog_generations", count
        )
    )


async def test_a_newcomer_does_not_take_the_lead(world: World, start: Start, said: Said) -> None:
    async with start("z-leader"):  # by name the newcomer would be first
        await eventually(partial(leads, world, "z-leader"))
        async with start("a-newcomer"):
            await eventually(partial(said.has, "stands by"))
            await offer(world, slots=3)
            await world.ask(a_request())
            await eventually(partial(at_least, world, 1), every=0.2)
            assert await leads(world, "z-leader")


async def test_the_standby_goes_on_where_the_leader_stopped(
    world: World, start: Start, said: Said
) -> None:
    requests = [a_request() for _ in range(4)]
    async with AsyncExitStack() as standby:
        async with start("leader"):
            await eventually(partial(leads, world, "leader"))
            await standby.enter_async_context(start("standby"))
            await eventually(partial(said.has, "stands by"))
            await offer(world, slots=2)
            for request in requests:
                await world.ask(request)
            await eventually(partial(_forwarded, world, 2))
            before = await epoch(world)
        await eventually(partial(leads, world, "standby"))
        # What the worker said before is still fresh: the new leader needs no new report to go on.
        await end(world, requests[0])
        sent = await eventually(partial(at_least, world, 3), every=0.3)
    assert {task.job for task in sent[:2]} == {request.id for request in requests[:2]}
    assert [task.job for task in sent[2:]] == [requests[2].id]
    assert [task.epoch > before for task in sent] == [False, False, True]
    assert said.count("stands by") == 1


async def test_counters_and_queue_survive_a_takeover(world: World, start: Start) -> None:
    """The store that was served more waits for the other, whoever leads."""
    rich, poor = (
        [a_request(store="rich") for _ in range(3)],
        [a_request(store="poor") for _ in range(2)],
    )
    async with start("first"):
        await offer(world, slots=1)
        await world.ask(rich[0])
        await eventually(partial(at_least, world, 1), every=0.2)
        for request in (*rich[1:], *poor):
            await world.ask(request)
        await eventually(partial(admitted, world, 5))
        await end(world, rich[0], cost=50_000_000)
        await eventually(partial(at_least, world, 2), every=0.2)
    async with start("second"):
        await offer(world, slots=2)
        sent = await eventually(partial(at_least, world, 3), every=0.3)
    assert [task.store for task in sent] == ["rich", "poor", "poor"]


async def test_a_deposed_leader_begins_a_new_term_and_loses_no_request(
    world: World, start: Start
) -> None:
    async with start():
        await eventually(partial(leads, world, "scheduler-1"))
        await world.database.execute("UPDATE scheduler_leader SET epoch = 41, holder = 'usurper'")
        await offer(world, slots=1)
        await world.ask(request := a_request())
        (task,) = await eventually(partial(at_least, world, 1), every=0.3)
    assert (task.job, task.epoch) == (request.id, 42)


async def test_a_deposed_epoch_writes_nothing(world: World, database: str) -> None:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    pool: asyncpg.Pool = await open_pool(settings, name="deposed")
    try:
        store = SchedulerStore(pool)
        old = await store.take_lead("old")
        known = a_request()
        assert await store.admit([known], old) == {known.id}
        new = await store.take_lead("new")
        change = CounterChange(
            store="store-a", served=1, mean_cost=1, settled_jobs=1, account="a", account_served=1
        )
        for write in (
            store.admit([a_request()], old),
            store.forward([known.id], [0], [1], old),
            store.settle([known.id], old, lambda _: [change]),
            store.save_counters([change], old),
            store.return_lost(0, old),
            store.return_unclaimed(0, old),
        ):
            with pytest.raises(DeposedError):
                await write
        assert await admitted(world, 1)
        assert await _forwarded(world, 0)
        assert await world.database.fetchval("SELECT count(*) FROM stores") == 0
        (row,) = (await store.forward([known.id], [0], [1], new)).values()
        assert (row["id"], row["forward_count"]) == (known.id, 1)
    finally:
        await pool.close()
