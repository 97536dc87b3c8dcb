"""Kafka's data is lost, on a broker of the test's own: with an empty one, all that PostgreSQL has goes on, and ends
once."""

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

from sandbox.servers import kafka as kafka_server
from sandbox.system.process import Child
from sandbox.system.run_log import RunLog
from tests.support.backend import open_backend
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.metrics_service import metrics
from tests.support.processes import environment, run
from tests.support.servers import execute
from tests.support.shop import Shop, start_shop


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


async def add_more_than_metrics_remembers(database: str) -> None:
    """Forty jobs whose ids fall into one of metrics' shards; who asked first was served last."""
    await execute(
        database,
        "INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, created_at, status,"
        " finished_at, attempt) SELECT lpad(to_hex(n * 16), 32, '0')::uuid, 'shop', 'keyword', 'oil', '{}',"
        " now() - make_interval(hours => 2) + make_interval(secs => n), 'DONE',"
        " now() - make_interval(secs => n), 1 FROM generate_series(1, 40) AS n",
    )


async def door_is_closed(shop: Shop) -> bool:
    return (await shop.post()).status_code == 429


async def taken(shop: Shop) -> UUID | None:
    """A new job, if the door is open."""
    answer = await shop.post()
    return UUID(answer.json()["id"]) if answer.status_code == 201 else None


async def all_done(database: str) -> int:
    """How many jobs there are, once all are done."""
    (row,) = await execute(
        database,
        "SELECT count(*), count(*) FILTER (WHERE status = 'DONE') AS done FROM blog_generations",
    )
    return int(row["count"]) if row["count"] == row["done"] else 0


@asynccontextmanager
async def told_again(bootstrap: str, prefix: str, database: str) -> AsyncIterator[None]:
    async with open_backend(bootstrap, prefix, database) as backend:
        known = environment(backend, database)
        told = await run(sys.executable, "-m", "services.scheduler", "retell", env=known)
        count = await backend.database.fetchval("SELECT count(*) FROM blog_generations")
    assert f"{count} job states republished" in told
    yield


async def test_everything_goes_on_with_an_empty_broker(
    database: str, standins: StandIns, tmp_path: Path
) -> None:
    folder, tables = tmp_path / "kafka", tmp_path / "tables"
    quick = {"max_pending_per_store": 4, "lease_s": 1, "forward_timeout_s": 2}
    async with (
        a_broker(folder) as bootstrap,
        start_shop(bootstrap, "lost.", database, standins, tmp_path, **quick) as shop,
        metrics(shop.backend, tables) as counting,
    ):
        ended = [await shop.ask(**{"Idempotency-Key": "tea"}), await shop.ask()]
        async with shop.working():
            await eventually(partial(counting.has_counted, {"DONE": 2}))
        waiting = [await shop.ask() for _ in range(4)]
        await eventually(partial(door_is_closed, shop))
    await leave_some_under_way(database, *waiting[:2])
    shutil.rmtree(folder / "data")
    (folder / "formatted").unlink()
    await add_more_than_metrics_remembers(database)
    async with (
        a_broker(folder) as bootstrap,
        told_again(bootstrap, "lost.", database),
        start_shop(bootstrap, "lost.", database, standins, tmp_path, **quick) as shop,
        metrics(shop.backend, tables) as counting,
    ):
        await eventually(partial(door_is_closed, shop), what="a door that is closed again")
        async with shop.working():
            await shop.are("DONE", *waiting)
            last = await eventually(partial(taken, shop), every=0.5)
            assert await shop.ask(**{"Idempotency-Key": "tea"}) == ended[0], (
                "the key still names its job"
            )
            assert last is not None
            await shop.are("DONE", last)  # it was asked for after all others
            jobs = await eventually(partial(all_done, database))
        for job in (*ended, *waiting):
            assert standins.openai.bill(job)["steps"] == {"outline": 1, "article": 1}, (
                "paid for once"
            )
        await eventually(
            partial(counting.has_counted, {"DONE": jobs}), what="what was before is counted"
        )
