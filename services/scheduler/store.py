"""scheduler's calls to PostgreSQL, one function a query of sql/scheduler.sql."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.scheduler.rules.order import CounterChange
from shared.messages import BlogRequested
from shared.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "scheduler.sql")
_CHUNK = 5_000

Row = asyncpg.Record


class SchedulerStore:
    """Every write that forwards names the epoch taken with `take_lead`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def take_lead(self, holder: str) -> int:
        return int(await self._pool.fetchval(_QUERIES["take_lead"], holder))

    async def epoch(self) -> int:
        return int(await self._pool.fetchval(_QUERIES["epoch"]))

    async def counters(self) -> Sequence[Row]:
        return await self._pool.fetch(_QUERIES["counters"])

    async def backlog(self) -> AsyncIterator[Row]:
        """Rows that wait or are in flight, streamed."""
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            async for row in connection.cursor(_QUERIES["backlog"], prefetch=_CHUNK):
                yield row

    async def admit(self, requests: Sequence[BlogRequested]) -> set[UUID]:
        """Insert a batch; the ids that are new. An id twice in one batch is inserted once."""
        columns = zip(*(_row(request) for request in requests), strict=True)
        rows = await self._pool.fetch(_QUERIES["admit"], *map(list, columns))
        return {row["id"] for row in rows}

    async def forward(
        self, jobs: Sequence[UUID], partitions: Sequence[int], estimates: Sequence[int], epoch: int
    ) -> dict[UUID, int]:
        """How often each job has now been forwarded; jobs that may not go are missing."""
        rows = await self._pool.fetch(_QUERIES["forward"], jobs, partitions, estimates, epoch)
        return {row["id"]: row["forward_count"] for row in rows}

    async def settle(self, jobs: Sequence[UUID]) -> Sequence[Row]:
        return await self._pool.fetch(_QUERIES["settle"], jobs)

    async def save_counters(self, changes: Sequence[CounterChange]) -> None:
        if changes:
            await self._pool.execute(
                _QUERIES["save_counters"],
                [change.store for change in changes],
                [change.served for change in changes],
                [change.mean_cost for change in changes],
                [change.settled_jobs for change in changes],
            )

    async def return_lost(self, grace_s: float) -> Sequence[Row]:
        return await self._pool.fetch(_QUERIES["return_lost"], grace_s)

    async def return_unclaimed(self, timeout_s: float) -> list[UUID]:
        return [row["id"] for row in await self._pool.fetch(_QUERIES["return_unclaimed"], timeout_s)]

    async def in_flight(self) -> dict[UUID, Row]:
        return {row["id"]: row for row in await self._pool.fetch(_QUERIES["in_flight"])}


def _row(request: BlogRequested) -> tuple[Any, ...]:
    return (
        request.id, request.store, request.source_type, request.source_id, asdict(request), request.priority,
        request.run_at, request.created_at,
    )  # fmt: skip
