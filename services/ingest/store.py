"""ingest's calls to PostgreSQL, one method a query of sql/ingest.sql: reads, and the changes that people ask for."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg

from services.ingest.keys import Caller
from shared.job import CANCELLABLE, RETRIABLE, Status
from shared.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "ingest.sql")

Row = asyncpg.Record


class IngestStore:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def job(self, job: UUID, store: str | None) -> Row | None:
        """A job of this store (None: of any); another store's is as good as none."""
        return await self._pool.fetchrow(_QUERIES["job"], job, store)

    async def waiting(self, store: str, expected: Sequence[UUID]) -> tuple[int, int, Sequence[UUID]]:
        """How many jobs wait in a store's queue, and in all queues; and which of those expected have come."""
        row = await self._pool.fetchrow(_QUERIES["waiting"], store, expected)
        assert row is not None
        return row["of_store"], row["of_all"], row["arrived"]

    async def budget(self, store: str) -> Row:
        """How a store's budget of this month stands, be there one or not."""
        row = await self._pool.fetchrow(_QUERIES["budget"], store)
        assert row is not None
        return row

    async def is_known(self, store: str) -> bool:
        """Whether a store was ever given a key."""
        return bool(await self._pool.fetchval(_QUERIES["is_known"], store))

    async def set_budget(self, store: str, monthly: int, warn_at: float, by: str) -> None:
        await self._pool.execute(_QUERIES["set_budget"], store, monthly, warn_at, by)

    async def remove_budget(self, store: str) -> None:
        await self._pool.execute(_QUERIES["remove_budget"], store)

    async def steps(self, job: UUID) -> Sequence[Row]:
        return await self._pool.fetch(_QUERIES["steps"], job)

    async def list(
        self, store: str, *, status: Status | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Row]:
        created_at, job = after or (None, None)
        return await self._pool.fetch(_QUERIES["list"], store, status, created_at, job, limit)

    async def cancel(self, job: UUID, caller: Caller) -> Row | None:
        """The job as it is now; None when it is no job of the caller's, or one that cannot be cancelled."""
        who = "the store" if caller.store is not None else caller.name
        return await self._pool.fetchrow(
            _QUERIES["cancel"], job, caller.store, list(CANCELLABLE), f"cancelled by {who}"
        )  # fmt: skip

    async def retry(self, job: UUID, caller: Caller) -> Row | None:
        """The same for one that is to begin again."""
        return await self._pool.fetchrow(_QUERIES["retry"], job, caller.store, list(RETRIABLE))
