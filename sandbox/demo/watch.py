"""Follows the jobs of a run in PostgreSQL until all have ended."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from uuid import UUID

from sandbox.demo.outcome import JobRow
from sandbox.servers.postgres import open_connection
from shared.domain.job import ENDED, Status
from shared.runtime.postgres import UNAVAILABLE_ERRORS

_QUERY = """
SELECT id::text, instance_id AS store, status, created_at, started_at, finished_at,
       input_tokens + output_tokens AS tokens, cost_nanousd, error
  FROM blog_generations WHERE id = ANY($1::uuid[])
"""
ProgressCallback = Callable[[Counter[Status]], None]


async def wait_until_jobs_ended(
    dsn: str, jobs: Sequence[str], *, progress: ProgressCallback, stuck_after_s: float
) -> list[JobRow]:
    """Return the rows of the jobs once all have ended.

    Returns the latest rows when no job has changed its status for `stuck_after_s`.
    """
    counts: Counter[Status] = Counter()
    changed_at = time.monotonic()
    ids = [UUID(job) for job in jobs]
    rows: list[JobRow] = []
    while time.monotonic() - changed_at < stuck_after_s:
        try:
            rows = await read_rows(dsn, ids)
        except UNAVAILABLE_ERRORS:
            await asyncio.sleep(1)  # PostgreSQL may restart during a run
            continue
        new_counts = Counter(row.status for row in rows)
        if new_counts != counts:
            counts, changed_at = new_counts, time.monotonic()
        progress(counts)
        if len(rows) == len(ids) and all(row.status in ENDED for row in rows):
            break
        await asyncio.sleep(1)
    return rows


async def read_rows(dsn: str, ids: Sequence[UUID]) -> list[JobRow]:
    async with open_connection(dsn) as connection:
        found = await connection.fetch(_QUERY, ids)
    return [JobRow(**(dict(row) | {"status": Status(row["status"])})) for row in found]
