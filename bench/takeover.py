"""Measures how fast a new leader restores the fair queue, compared with only reading the rows."""

import asyncio
import time
from datetime import UTC, datetime

from bench.result import Ratio, Result
from bench.servers import running_postgres
from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.leadership.restore import restore_fair_queue
from services.scheduler.repository import SchedulerRepository
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings

_ROWS = 100_000
_STORES = 1_000
_REPEATS = 5
_FILL = """
INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, created_at)
SELECT gen_random_uuid(), 'store-' || number % $2, 'product', 'product-' || number,
       jsonb_build_object('title', repeat('x', 200)), $3::timestamptz + number * interval '1 ms'
  FROM generate_series(1, $1::int) AS number
"""


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    async with running_postgres() as dsn:
        settings = PostgresSettings.model_validate({"database_url": dsn, "db_pool_min": 1})
        async with await open_pool(settings, name="bench") as pool:
            await pool.execute(_FILL, _ROWS, _STORES, datetime.now(UTC))
            await pool.execute("VACUUM ANALYZE blog_generations")
            repository = SchedulerRepository(pool, epoch=0)
            times = [
                (await _read_backlog(repository), await _restore_backlog(repository))
                for _ in range(_REPEATS + 1)
            ][1:]  # the first run warms up
    reading, restoring = (min(column) for column in zip(*times, strict=True))
    rate = _ROWS / restoring
    rows = [
        ["read and do nothing", f"{_ROWS / reading:,.0f} rows/s", ""],
        ["restore the queue", f"{rate:,.0f} rows/s", f"{reading / restoring:.2f} of it"],
    ]
    bar = Ratio(
        name="rows a second restored", measured=rate, target="≥ 100,000", met=rate >= 100_000
    )
    return Result(
        question=f"How fast does a new leader restore a queue of {_ROWS:,} waiting jobs?",
        header=["", "", ""],
        rows=rows,
        ratios=[bar],
    )


async def _read_backlog(repository: SchedulerRepository) -> float:
    began = time.perf_counter()
    read = 0
    async for _ in repository.stream_backlog():
        read += 1
    assert read == _ROWS
    return time.perf_counter() - began


async def _restore_backlog(repository: SchedulerRepository) -> float:
    queue = FairQueue(cap=20, default_cost=5_000_000)
    began = time.perf_counter()
    restored = await restore_fair_queue(queue, WorkerCreditTracker(silence_s=5), repository)
    taken = time.perf_counter() - began
    assert restored.rows == queue.pending == _ROWS
    return taken
