"""Stores that belong together: one part of the order, set while the scheduler runs, its counter saved."""

from collections import Counter
from functools import partial

import pytest

from tests.integration.scheduling import Start, admitted, at_least, end, offer, settled, started
from tests.integration.world import Said, World, a_request
from tests.waiting import eventually


@pytest.fixture
def start(world: World, database: str) -> Start:
    return partial(started, world, database)


async def test_stores_that_are_set_to_one_account_share_its_part(
    world: World, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    said = Said(capsys)
    async with start():
        await eventually(partial(said.has, "the order is rebuilt"))  # what is set before that is found, and not told
        await world.database.execute(
            "INSERT INTO stores (instance_id, account_id, configured_at)"
            " SELECT name, 'both', now() FROM unnest(ARRAY['a1', 'a2']) AS name"
        )
        await eventually(lambda: said.count("a store is set") == 2)
        for store in ("a1", "a2", "b") * 4:
            await world.ask(a_request(store=store))
        await eventually(partial(admitted, world, 12))
        await offer(world, slots=8)
        sent = await eventually(partial(at_least, world, 8), every=0.2)
    assert Counter(task.store for task in sent) == {"a1": 2, "a2": 2, "b": 4}


async def test_an_accounts_counter_is_saved(world: World, start: Start) -> None:
    await world.database.execute("INSERT INTO stores (instance_id, account_id) VALUES ('a1', 'both')")
    async with start():
        await offer(world, slots=1)
        await world.ask(request := a_request(store="a1"))
        await eventually(partial(at_least, world, 1), every=0.2)
        await end(world, request, cost=7_000)
        await eventually(partial(settled, world, request.id))
    served = await world.database.fetch("SELECT account_id, served_nanousd FROM accounts")
    assert [(row["account_id"], row["served_nanousd"]) for row in served] == [("both", 7_000)]
