"""Kafka's data is lost, on a broker of the test's own: with an empty one, all that PostgreSQL has goes on, and ends
once."""

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

from sandbox import kafka as kafka_server
from sandbox.logs import RunLog
from sandbox.process import Child
from tests.integration.counting import metrics
from tests.integration.processes import environment, run
from tests.integration.shop import Shop, a_shop
from tests.servers import execute
from tests.standins import Standins
from tests.waiting import eventually


@asynccontextmanager
async def a_broker(folder: Path) -> AsyncIterator[str]:
    spec, bootstrap = kafka_server.prepare(folder, print)
    with RunLog(folder / "server.log", None) as log:
        broker = Child(spec, log)
        await broker.start()
        try:
            yield bootstrap
        finally:
            await broker.stop()


async def leave_some_under_way(database: str, forwarded: UUID, claimed: UUID) -> None:
    """As they are when everything stops at once: one on its way in Kafka, one with a worker that is gone."""
    await execute(
        database,
        "UPDATE blog_generations SET forwarded_at = now(), forwarded_partition = 3, forward_count = 1,"
        f" estimate_nanousd = 5 WHERE id IN ('{forwarded}', '{claimed}')",
    )
    await execute(
        database,
        "UPDATE blog_generations SET status = 'PROCESSING', attempt = 1, worker = 'gone', started_at = now(),"
        f" lease_until = now() + interval '1 second' WHERE id = '{claimed}'",
    )


async def door_is(status: int, shop: Shop) -> bool:
    return (await shop.post()).status_code == status


async def all_done(database: str) -> int:
    """How many jobs there are, once all are done."""
    (row,) = await execute(
        database, "SELECT count(*), count(*) FILTER (WHERE status = 'DONE') AS done FROM blog_generations"
    )
    return int(row["count"]) if row["count"] == row["done"] else 0


async def test_everything_goes_on_with_an_empty_broker(database: str, standins: Standins, tmp_path: Path) -> None:
    folder, tables = tmp_path / "kafka", tmp_path / "tables"
    quick = {"max_pending_per_store": 4, "lease_s": 1, "forward_timeout_s": 2}
    async with (
        a_broker(folder) as bootstrap,
        a_shop(bootstrap, "lost.", database, standins, tmp_path, **quick) as shop,
        metrics(shop.world, tables) as counting,
    ):
        ended = [await shop.ask(**{"Idempotency-Key": "tea"}), await shop.ask()]
        async with shop.working():
            await eventually(partial(counting.has_counted, {"DONE": 2}))
        waiting = [await shop.ask() for _ in range(4)]
        await eventually(partial(door_is, 429, shop), what="a closed door")
    await leave_some_under_way(database, *waiting[:2])
    shutil.rmtree(folder / "data")
    (folder / "formatted").unlink()
    async with (
        a_broker(folder) as bootstrap,
        a_shop(bootstrap, "lost.", database, standins, tmp_path, **quick) as shop,
        metrics(shop.world, tables) as counting,
    ):
        await eventually(partial(door_is, 429, shop), what="the door, closed again")
        async with shop.working():
            await shop.are("DONE", *waiting)
            await eventually(partial(door_is, 201, shop), what="the door, open again", every=0.5)
            assert await shop.ask(**{"Idempotency-Key": "tea"}) == ended[0], "the key still names its job"
            jobs = await eventually(partial(all_done, database))
        for job in (*ended, *waiting):
            assert standins.openai.bill(job)["steps"] == {"outline": 1, "article": 1}, "paid for once"
        assert not await counting.has_counted({"DONE": jobs}), "what was before is not known"
        known = environment(shop.world, database)
        assert f"{jobs} jobs told again" in await run(sys.executable, "-m", "services.scheduler", "retell", env=known)
        await eventually(partial(counting.has_counted, {"DONE": jobs}))
