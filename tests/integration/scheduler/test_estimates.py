"""Why each store waits, as the scheduler keeps it for clients who ask."""

from functools import partial

import asyncpg
import pytest

from tests.support.environment import World, a_request
from tests.support.eventually import eventually
from tests.support.scheduler import Start, admitted, at_least, end, offer, started


@pytest.fixture
def start(world: World, database: str) -> Start:
    return partial(started, world, database)


async def _outlook(world: World, store: str) -> asyncpg.Record | None:
    return await world.database.fetchrow(
        "SELECT * FROM store_outlooks WHERE instance_id = $1", store
    )


async def _says(world: World, store: str, reason: str) -> bool:
    row = await _outlook(world, store)
    return row is not None and row["reason"] == reason


async def test_the_reason_follows_what_happens_and_goes_with_the_last_job(
    world: World, start: Start
) -> None:
    requests = [a_request() for _ in range(3)]
    async with start(worker_silence_s=3600):
        for request in requests:
            await world.ask(request)
        await eventually(partial(_says, world, "store-a", "no worker"))
        row = await _outlook(world, "store-a")
        assert row is not None
        assert (row["queued"], row["ahead"], row["first_at"]) == (3, 0, None)
        await offer(world, slots=1)
        await eventually(partial(_says, world, "store-a", "back-pressure"))
        row = await _outlook(world, "store-a")
        assert row is not None
        assert row["queued"] == 2
        assert row["first_at"] is not None
        await offer(world, slots=3)
        await eventually(partial(at_least, world, 3), every=0.2)
        await eventually(partial(_silent, world))


async def _silent(world: World) -> bool:
    return not await world.database.fetchval("SELECT count(*) FROM store_outlooks")


async def test_a_store_that_was_served_more_waits_for_its_turn(world: World, start: Start) -> None:
    rich, poor = (
        [a_request(store="rich") for _ in range(3)],
        [a_request(store="poor") for _ in range(30)],
    )
    async with start(worker_silence_s=3600):
        await offer(world, slots=1)
        await world.ask(rich[0])
        await eventually(partial(at_least, world, 1), every=0.2)
        for request in (*rich[1:], *poor):
            await world.ask(request)
        await eventually(partial(admitted, world, 33))
        await end(world, rich[0], cost=50_000_000)
        await eventually(partial(_says, world, "rich", "fair turn"))
        await eventually(partial(_says, world, "poor", "back-pressure"))
        row = await _outlook(world, "rich")
    assert row is not None
    assert row["ahead"] > 0


async def test_a_store_at_its_cap_is_told_so(world: World, start: Start) -> None:
    async with start(worker_silence_s=3600, max_per_instance=2):
        await offer(world, slots=3)
        for number in range(10):
            await world.ask(a_request(store="busy" if number < 5 else "other"))
        await eventually(partial(admitted, world, 10))
        await eventually(partial(at_least, world, 3), every=0.2)
        capped = await eventually(
            lambda: world.database.fetchval(
                "SELECT instance_id FROM store_outlooks WHERE reason = 'store cap'"
            )
        )
    assert capped in ("busy", "other")
