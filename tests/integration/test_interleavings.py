"""Anything in any order: requests, repeats, bulk calls, cancels and retries through two ingest processes that come and
go, under a scheduler that is replaced, with a worker that ends jobs. Every id is in one state, reached by legal steps,
every bill is charged once, and nothing that got a 201 is missing.
"""

import asyncio
import random
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import httpx

from services.metrics.rules.aggregate import Aggregate, merge
from services.metrics.rules.fold import Shard, empty_shard, into_shard, shard_key
from shared.job import TRANSITIONS, Status
from shared.messages import EventKind, JobEvent
from shared.topics import RESULTS
from tests.integration.ingest import GOOD, PATH, Ingest, an_ingest
from tests.integration.playing import a_played_worker
from tests.integration.scheduling import started
from tests.integration.world import World
from tests.waiting import eventually

_ACTS = 120


class Shop:
    """A shop that does one thing after another, whatever comes to its mind. `taken` are the ids that got a 201."""

    def __init__(self, chance: random.Random) -> None:
        self.taken: list[str] = []
        self.cancelled = self.retried = 0
        self._chance = chance

    async def act(self, ingest: Ingest) -> None:
        what = self._chance.choice(("post", "post", "repeat", "bulk", "cancel", "cancel", "retry", "retry"))
        if what in ("cancel", "retry"):
            await self._change(ingest, what)
        elif what == "bulk":
            items = [GOOD] * self._chance.randint(1, 4)
            answer = await _post(ingest, "/bulk", json=items)
            assert answer.status_code == 201, answer.text
            self.taken += [item["id"] for item in answer.json()["items"]]
        else:
            key = {"Idempotency-Key": f"key-{self._chance.randrange(5)}"} if what == "repeat" else {}
            answer = await _post(ingest, "", json=GOOD, headers=key)
            assert answer.status_code == 201, answer.text
            self.taken.append(answer.json()["id"])

    async def _change(self, ingest: Ingest, what: str) -> None:
        if not self.taken:
            return
        answer = await _post(ingest, f"/{self._chance.choice(self.taken)}/{what}")
        assert answer.status_code in (200, 409, 503), answer.text  # 503: no scheduler has admitted it yet
        if answer.status_code == 200:
            self.cancelled += what == "cancel"
            self.retried += what == "retry"


async def _post(ingest: Ingest, path: str, **options: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {ingest.key}"} | dict(options.pop("headers", {}))  # type: ignore[call-overload]
    return await ingest.http.post(f"{PATH}{path}", headers=headers, timeout=30, **options)  # type: ignore[arg-type]


async def _all_ended(world: World, ids: set[str]) -> bool:
    ended = "SELECT count(*) FROM blog_generations WHERE status IN ('DONE', 'CANCELLED')"
    return bool(await world.database.fetchval(f"{ended} AND charged_nanousd = cost_nanousd") == len(ids))


async def test_whatever_happens_in_whatever_order_ends_in_one_legal_state(
    world: World, database: str, tmp_path: Path
) -> None:
    shops = [Shop(random.Random(seed)) for seed in range(3)]
    an = partial(an_ingest, world, database, tmp_path, fresh_wait_s=2.0)
    async with a_played_worker(world, database, slots=6, pause_s=0.2) as worker:
        for era in range(2):  # a new scheduler, and new ingest processes
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(started(world, database, f"scheduler-{era}", forward_timeout_s=3))
                pair = [await stack.enter_async_context(an()) for _ in range(2)]
                for number in range(_ACTS // 6):
                    await asyncio.gather(*(shop.act(pair[(number + which) % 2]) for which, shop in enumerate(shops)))
        taken = {job for shop in shops for job in shop.taken}
        async with started(world, database, "scheduler-last", forward_timeout_s=3):
            await eventually(partial(_all_ended, world, taken), timeout=60, every=0.5)
    rows = {str(row["id"]): row for row in await world.database.fetch("SELECT * FROM blog_generations")}
    assert rows.keys() == taken, "what got a 201 is there, and nothing else"
    assert all(sum(getattr(shop, what) for shop in shops) > 0 for what in ("cancelled", "retried"))
    billed = sum(cost for _, _, cost in worker.done)
    assert sum(row["cost_nanousd"] for row in rows.values()) == billed
    assert sum(row["charged_nanousd"] for row in rows.values()) == billed
    assert sum(row["retries"] for row in rows.values()) == sum(shop.retried for shop in shops)
    for job, statuses in (await _lives(world)).items():
        for before, after in pairwise(statuses):
            assert _reachable(before, after), (job, statuses)
        assert statuses[-1] == rows[str(job)]["status"]
    counted = await _counted(world)
    assert +Counter(counted["counts"]) == Counter(row["status"] for row in rows.values()), "metrics counts the same"


async def _counted(world: World) -> Aggregate:
    """What the events come to by the rules of metrics."""
    shards: defaultdict[str, Shard] = defaultdict(empty_shard)
    for _, event in await world.read_all(RESULTS):
        if isinstance(event, JobEvent):
            into_shard(event, shards[shard_key(event)])
    return merge(shard["aggregate"] for shard in shards.values())


async def _lives(world: World) -> dict[UUID, list[Status]]:
    """Every job's states as all were told, in the order of attempts."""
    told: defaultdict[UUID, dict[tuple[int, int], Status]] = defaultdict(dict)
    order = list(EventKind)
    for _, event in await world.read_all(RESULTS):
        if isinstance(event, JobEvent):
            told[event.job][(event.attempt, order.index(event.kind))] = event.status
    return {job: [states[at] for at in sorted(states)] for job, states in told.items()}


def _reachable(before: Status, after: Status) -> bool:
    """Directly, or by way of PROCESSING, of which the played worker says nothing."""
    by_way = Status.PROCESSING in TRANSITIONS[before] and after in TRANSITIONS[Status.PROCESSING]
    return before is after or after in TRANSITIONS[before] or by_way
