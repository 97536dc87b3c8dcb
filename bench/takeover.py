"""How fast does a new leader rebuild the order? Beside it, in the same run: reading the same rows and doing nothing."""

import asyncio
import time
from datetime import UTC, datetime

from bench.result import Ratio, Result
from bench.servers import running_postgres
from services.scheduler.dispatch.rules import Credit
from services.scheduler.fair_queue.queue import FairOrder
from services.scheduler.leadership.restore import rebuild
from services.scheduler.repository import SchedulerStore
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
            store = SchedulerStore(pool)
            times = [(await _read(store), await _rebuild(store)) for _ in range(_REPEATS + 1)][
                1:
            ]  # the first warms up
    reading, rebuilding = (min(column) for column in zip(*times, strict=True))
    rate = _ROWS / rebuilding
    rows = [
        ["read and do nothing", f"{_ROWS / reading:,.0f} rows/s", ""],
        ["rebuild the order", f"{rate:,.0f} rows/s", f"{reading / rebuilding:.2f} of it"],
    ]
    bar = Ratio(what="rows a second rebuilt", seen=rate, bar="≥ 100,000", held=rate >= 100_000)
    return Result(
        question=f"How fast does a new leader rebuild an order of {_ROWS:,} waiting jobs?",
        header=["", "", ""],
        rows=rows,
        ratios=[bar],
    )


async def _read(store: SchedulerStore) -> float:
    began = time.perf_counter()
    read = 0
    async for _ in store.backlog():
        read += 1
    assert read == _ROWS
    return time.perf_counter() - began


async def _rebuild(store: SchedulerStore) -> float:
    order = FairOrder(cap=20, default_cost=5_000_000)
    began = time.perf_counter()
    rebuilt = await rebuild(order, Credit(silence_s=5), store)
    taken = time.perf_counter() - began
    assert rebuilt.rows == order.pending == _ROWS
    return taken
