"""Kafka loses all its data: with an empty broker, every job in PostgreSQL still ends once."""

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

from sandbox.servers import kafka as kafka_server
from sandbox.system.process import ChildProcess
from sandbox.system.run_log import RunLog
from tests.support.backend import open_backend
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.metrics_service import start_metrics
from tests.support.processes import environment, run_command
from tests.support.servers import execute
from tests.support.shop import ShopClient, start_shop


@asynccontextmanager
async def start_broker(folder: Path) -> AsyncIterator[str]:
    spec, bootstrap = kafka_server.prepare_server(folder, print)
    with RunLog(folder / "server.log", None) as log:
        broker = ChildProcess(spec, log)
        await broker.start()
        try:
            yield bootstrap
        finally:
            await broker.stop()


async def mark_in_flight(database: str, forwarded: UUID, claimed: UUID) -> None:
    """Set one job to dispatched and one to claimed by a dead worker."""
    await execute(
        database,
        "UPDATE blog_generations SET forwarded_at = now(), forwarded_partition = 3,"
        f" forward_count = 1, estimate_nanousd = 5 WHERE id IN ('{forwarded}', '{claimed}')",
    )
    await execute(
        database,
        "UPDATE blog_generations SET status = 'PROCESSING', attempt = 1, worker = 'gone',"
        f" started_at = now(), lease_until = now() + interval '1 second' WHERE id = '{claimed}'",
    )


async def insert_more_jobs_than_a_shard_keeps(database: str) -> None:
    """Insert forty ended jobs of one metrics shard; the first requested ended last."""
    await execute(
        database,
        "INSERT INTO blog_generations (id, instance_id, source_type, source_id, request,"
        " created_at, status, finished_at, attempt)"
        " SELECT lpad(to_hex(n * 16), 32, '0')::uuid, 'shop', 'keyword', 'oil', '{}',"
        " now() - make_interval(hours => 2) + make_interval(secs => n), 'DONE',"
        " now() - make_interval(secs => n), 1 FROM generate_series(1, 40) AS n",
    )


async def is_admission_closed(shop: ShopClient) -> bool:
    return (await shop.post()).status_code == 429


async def submit_if_open(shop: ShopClient) -> UUID | None:
    """Submit a job; `None` when admission is closed."""
    answer = await shop.post()
    return UUID(answer.json()["id"]) if answer.status_code == 201 else None


async def count_when_all_done(database: str) -> int:
    """Return the number of jobs once all are DONE, and 0 before."""
    (row,) = await execute(
        database,
        "SELECT count(*), count(*) FILTER (WHERE status = 'DONE') AS done FROM blog_generations",
    )
    return int(row["count"]) if row["count"] == row["done"] else 0


@asynccontextmanager
async def republish_events(bootstrap: str, prefix: str, database: str) -> AsyncIterator[None]:
    async with open_backend(bootstrap, prefix, database) as backend:
        variables = environment(backend, database)
        output = await run_command(
            sys.executable, "-m", "services.scheduler", "retell", env=variables
        )
        count = await backend.database.fetchval("SELECT count(*) FROM blog_generations")
    assert f"{count} job states republished" in output
    yield


async def test_every_job_ends_once_with_an_empty_broker(
    database: str, standins: StandIns, tmp_path: Path
) -> None:
    folder, tables = tmp_path / "kafka", tmp_path / "tables"
    quick = {"max_pending_per_store": 4, "lease_s": 1, "forward_timeout_s": 2}
    async with (
        start_broker(folder) as bootstrap,
        start_shop(bootstrap, "lost.", database, standins, tmp_path, **quick) as shop,
        start_metrics(shop.backend, tables) as counting,
    ):
        ended = [await shop.submit(**{"Idempotency-Key": "tea"}), await shop.submit()]
        async with shop.running_worker():
            await eventually(partial(counting.has_counted, {"DONE": 2}))
        waiting = [await shop.submit() for _ in range(4)]
        await eventually(partial(is_admission_closed, shop))
    await mark_in_flight(database, *waiting[:2])
    shutil.rmtree(folder / "data")
    (folder / "formatted").unlink()
    await insert_more_jobs_than_a_shard_keeps(database)
    async with (
        start_broker(folder) as bootstrap,
        republish_events(bootstrap, "lost.", database),
        start_shop(bootstrap, "lost.", database, standins, tmp_path, **quick) as shop,
        start_metrics(shop.backend, tables) as counting,
    ):
        await eventually(partial(is_admission_closed, shop), what="admission closed again")
        async with shop.running_worker():
            await shop.wait_for_status("DONE", *waiting)
            last = await eventually(partial(submit_if_open, shop), every=0.5)
            assert await shop.submit(**{"Idempotency-Key": "tea"}) == ended[0], (
                "the key names another job"
            )
            assert last is not None
            await shop.wait_for_status("DONE", last)  # submitted after all others
            jobs = await eventually(partial(count_when_all_done, database))
        for job in (*ended, *waiting):
            assert standins.openai.bill(job)["steps"] == {"outline": 1, "article": 1}, (
                "paid for twice"
            )
        await eventually(partial(counting.has_counted, {"DONE": jobs}), what="earlier jobs counted")
