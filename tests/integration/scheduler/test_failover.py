"""Leader election and failover."""

from contextlib import AsyncExitStack
from functools import partial

import asyncpg
import pytest

from services.scheduler.fair_queue.accounts import CounterChange
from services.scheduler.repository import DeposedError, EpochRepository
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, LogCapture, make_request
from tests.support.eventually import eventually
from tests.support.scheduler import (
    StartScheduler,
    finish_job,
    has_job_count,
    is_leader,
    publish_worker_report,
    read_epoch,
    read_tasks_at_least,
    start_scheduler,
)


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(start_scheduler, backend, database)


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> LogCapture:
    return LogCapture(capsys)


async def _dispatched(backend: Backend, count: int) -> bool:
    return bool(
        await backend.database.fetchval(
            "SELECT count(forwarded_at) = $1 FROM blog_generations", count
        )
    )


async def test_newcomer_does_not_take_the_lead(
    backend: Backend, start: StartScheduler, log: LogCapture
) -> None:
    async with start("z-leader"):  # the newcomer's name sorts first
        await eventually(partial(is_leader, backend, "z-leader"))
        async with start("a-newcomer"):
            await eventually(partial(log.has, "scheduler is standby"))
            await publish_worker_report(backend, slots=3)
            await backend.submit(make_request())
            await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
            assert await is_leader(backend, "z-leader")


async def test_standby_continues_after_the_leader_stops(
    backend: Backend, start: StartScheduler, log: LogCapture
) -> None:
    requests = [make_request() for _ in range(4)]
    async with AsyncExitStack() as standby:
        async with start("leader"):
            await eventually(partial(is_leader, backend, "leader"))
            await standby.enter_async_context(start("standby"))
            await eventually(partial(log.has, "scheduler is standby"))
            await publish_worker_report(backend, slots=2)
            for request in requests:
                await backend.submit(request)
            await eventually(partial(_dispatched, backend, 2))
            before = await read_epoch(backend)
        await eventually(partial(is_leader, backend, "standby"))
        # The worker's last report is still fresh, so the new leader needs no new one.
        await finish_job(backend, requests[0])
        sent = await eventually(partial(read_tasks_at_least, backend, 3), every=0.3)
    assert {task.job for task in sent[:2]} == {request.id for request in requests[:2]}
    assert [task.job for task in sent[2:]] == [requests[2].id]
    assert [task.epoch > before for task in sent] == [False, False, True]
    assert log.count("scheduler is standby") == 1


async def test_counters_and_queue_survive_a_failover(
    backend: Backend, start: StartScheduler
) -> None:
    """The store with more served money waits for the other under both leaders."""
    rich, poor = (
        [make_request(store="rich") for _ in range(3)],
        [make_request(store="poor") for _ in range(2)],
    )
    async with start("first"):
        await publish_worker_report(backend, slots=1)
        await backend.submit(rich[0])
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        for request in (*rich[1:], *poor):
            await backend.submit(request)
        await eventually(partial(has_job_count, backend, 5))
        await finish_job(backend, rich[0], cost=50_000_000)
        await eventually(partial(read_tasks_at_least, backend, 2), every=0.2)
    async with start("second"):
        await publish_worker_report(backend, slots=2)
        sent = await eventually(partial(read_tasks_at_least, backend, 3), every=0.3)
    assert [task.store for task in sent] == ["rich", "poor", "poor"]


async def test_deposed_leader_begins_new_session_and_loses_no_request(
    backend: Backend, start: StartScheduler
) -> None:
    async with start():
        await eventually(partial(is_leader, backend, "scheduler-1"))
        await backend.database.execute("UPDATE scheduler_leader SET epoch = 41, holder = 'other'")
        await publish_worker_report(backend, slots=1)
        await backend.submit(request := make_request())
        (task,) = await eventually(partial(read_tasks_at_least, backend, 1), every=0.3)
    assert (task.job, task.epoch) == (request.id, 42)


async def test_deposed_epoch_writes_nothing(backend: Backend, database: str) -> None:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    pool: asyncpg.Pool = await open_pool(settings, name="deposed")
    try:
        epochs = EpochRepository(pool)
        old = await epochs.take_lead("old")
        known = make_request()
        assert await old.insert_batch([known]) == {known.id}
        new = await epochs.take_lead("new")
        change = CounterChange(
            store="store-a", served=1, mean_cost=1, settled_jobs=1, account="a", account_served=1
        )
        for write in (
            old.insert_batch([make_request()]),
            old.mark_dispatched([known.id], [0], [1]),
            old.settle_jobs([known.id], lambda _: [change]),
            old.save_counters([change]),
            old.requeue_lost_jobs(0, []),
            old.requeue_unclaimed(0),
        ):
            with pytest.raises(DeposedError):
                await write
        assert await has_job_count(backend, 1)
        assert await _dispatched(backend, 0)
        assert await backend.database.fetchval("SELECT count(*) FROM stores") == 0
        (row,) = (await new.mark_dispatched([known.id], [0], [1])).values()
        assert (row["id"], row["forward_count"]) == (known.id, 1)
    finally:
        await pool.close()
