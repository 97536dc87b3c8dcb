"""Wait estimates that the scheduler saves for clients."""

from functools import partial

import asyncpg
import pytest

from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.scheduler import (
    StartScheduler,
    finish_job,
    has_job_count,
    publish_worker_report,
    read_tasks_at_least,
    start_scheduler,
)


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(start_scheduler, backend, database)


async def _wait_estimate(backend: Backend, store: str) -> asyncpg.Record | None:
    return await backend.database.fetchrow(
        "SELECT * FROM store_outlooks WHERE instance_id = $1", store
    )


async def _has_reason(backend: Backend, store: str, reason: str) -> bool:
    row = await _wait_estimate(backend, store)
    return row is not None and row["reason"] == reason


async def test_reason_follows_the_state_until_no_job_waits(
    backend: Backend, start: StartScheduler
) -> None:
    requests = [make_request() for _ in range(3)]
    async with start(worker_silence_s=3600):
        for request in requests:
            await backend.submit(request)
        await eventually(partial(_has_reason, backend, "store-a", "no worker"))
        row = await _wait_estimate(backend, "store-a")
        assert row is not None
        assert (row["queued"], row["ahead"], row["first_at"]) == (3, 0, None)
        await publish_worker_report(backend, slots=1)
        await eventually(partial(_has_reason, backend, "store-a", "back-pressure"))
        row = await _wait_estimate(backend, "store-a")
        assert row is not None
        assert row["queued"] == 2
        assert row["first_at"] is not None
        await publish_worker_report(backend, slots=3)
        await eventually(partial(read_tasks_at_least, backend, 3), every=0.2)
        await eventually(partial(_no_estimates, backend))


async def _no_estimates(backend: Backend) -> bool:
    return not await backend.database.fetchval("SELECT count(*) FROM store_outlooks")


async def test_store_with_more_served_money_waits_for_its_turn(
    backend: Backend, start: StartScheduler
) -> None:
    rich, poor = (
        [make_request(store="rich") for _ in range(3)],
        [make_request(store="poor") for _ in range(30)],
    )
    async with start(worker_silence_s=3600):
        await publish_worker_report(backend, slots=1)
        await backend.submit(rich[0])
        await eventually(partial(read_tasks_at_least, backend, 1), every=0.2)
        for request in (*rich[1:], *poor):
            await backend.submit(request)
        await eventually(partial(has_job_count, backend, 33))
        await finish_job(backend, rich[0], cost=50_000_000)
        await eventually(partial(_has_reason, backend, "rich", "fair turn"))
        await eventually(partial(_has_reason, backend, "poor", "back-pressure"))
        row = await _wait_estimate(backend, "rich")
    assert row is not None
    assert row["ahead"] > 0


async def test_store_at_its_cap_has_that_reason(backend: Backend, start: StartScheduler) -> None:
    async with start(worker_silence_s=3600, max_per_instance=2):
        await publish_worker_report(backend, slots=3)
        for number in range(10):
            await backend.submit(make_request(store="busy" if number < 5 else "other"))
        await eventually(partial(has_job_count, backend, 10))
        await eventually(partial(read_tasks_at_least, backend, 3), every=0.2)
        capped = await eventually(
            lambda: backend.database.fetchval(
                "SELECT instance_id FROM store_outlooks WHERE reason = 'store cap'"
            )
        )
    assert capped in ("busy", "other")
