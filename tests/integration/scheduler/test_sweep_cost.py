"""The queries of the sweep read the jobs in flight, not the backlog or the history."""

from typing import Any

import asyncpg
import pytest

from sandbox.servers.postgres import open_connection
from sandbox.system.home import ROOT
from shared.runtime.postgres import load_queries

QUERIES = load_queries(ROOT / "services" / "scheduler" / "sql" / "scheduler.sql")
WAITING, DONE, IN_FLIGHT = 5_000, 10_000, 40

FILL = """
INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, created_at, status,
                              forwarded_at, forwarded_partition, finished_at)
SELECT gen_random_uuid(), 'store-' || number % 50, 'keyword', 'tea', '{}', now(),
       CASE WHEN number <= $1 + $3 THEN 'PENDING' ELSE 'DONE' END,
       CASE WHEN number <= $3 THEN now() END, 0,
       CASE WHEN number > $1 + $3 THEN now() END
  FROM generate_series(1, $1::int + $2::int + $3::int) AS number
"""


async def explain(connection: asyncpg.Connection, name: str, *arguments: Any) -> str:
    rows = await connection.fetch(f"EXPLAIN {QUERIES[name]}", *arguments)
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize(
    "query", [("in_flight",), ("requeue_unclaimed", 30.0), ("requeue_lost_jobs", 1.0, ["dead"])]
)
async def test_sweep_reads_only_jobs_in_flight(database: str, query: tuple[Any, ...]) -> None:
    async with open_connection(database) as connection:
        await connection.execute(FILL, WAITING, DONE, IN_FLIGHT)
        await connection.execute("ANALYZE blog_generations")
        assert len(await connection.fetch(QUERIES["in_flight"])) == IN_FLIGHT
        plan = await explain(connection, *query)
    assert "Seq Scan" not in plan, plan
    assert "idx_blog_generations_in_flight" in plan or "idx_blog_generations_processing" in plan, (
        plan
    )
