"""A store's clients push harder than its queue holds: all of ingest, the scheduler and the doors between them."""

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from shared.keys import create_key
from tests.integration.ingest import GOOD, Ingest, an_ingest
from tests.integration.playing import a_played_worker
from tests.integration.scheduling import leads, started
from tests.integration.world import World
from tests.waiting import eventually

LIMIT, CLIENTS, EACH = 100, 20, 25


async def push(ingest: Ingest, answers: Counter[int]) -> None:
    """A client that wants its requests in, and does as Retry-After says."""
    accepted = 0
    while accepted < EACH:
        answer = await ingest.post(GOOD)
        answers[answer.status_code] += 1
        if answer.status_code == 429:
            await asyncio.sleep(int(answer.headers["retry-after"]))
        else:
            answer.raise_for_status()
            accepted += 1


async def ask_now_and_then(ingest: Ingest, key: str, answers: Counter[int]) -> None:
    while True:
        answer = await ingest.post(GOOD, headers={"Authorization": f"Bearer {key}"})
        answers[answer.status_code] += 1
        await asyncio.sleep(0.2)


async def watch(world: World, highest: list[int]) -> None:
    query = "SELECT count(*) FROM blog_generations WHERE status = 'PENDING' AND instance_id = 'shop'"
    while True:
        highest[0] = max(highest[0], await world.database.fetchval(query))
        await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_twenty_clients_that_obey_retry_after_get_everything_in(
    world: World, database: str, tmp_path: Path
) -> None:
    answers, neighbours, highest = Counter[int](), Counter[int](), [0]
    async with (
        started(world, database, max_pending_per_store=LIMIT),
        an_ingest(world, database, tmp_path) as ingest,
        a_played_worker(world, database, slots=20, pause_s=0.2) as worker,
    ):
        await eventually(partial(leads, world, "scheduler-1"))
        neighbour = await create_key(world.database, "neighbour")
        beside = [
            asyncio.create_task(ask_now_and_then(ingest, neighbour, neighbours)),
            asyncio.create_task(watch(world, highest)),
        ]
        await asyncio.gather(*(push(ingest, answers) for _ in range(CLIENTS)))
        wanted = CLIENTS * EACH
        await eventually(lambda: sum(store == "shop" for _, store, _ in worker.done) == wanted, timeout=60)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    print(f"answers {dict(answers)}, at most {highest[0]} waited where {LIMIT} may")
    assert answers.keys() == {201, 429}
    assert answers[201] == wanted
    assert neighbours.keys() == {201}
    assert highest[0] <= 3 * LIMIT, "what slips in while the word of a closed door travels"
