"""ingest's calls to PostgreSQL, one method a query of sql/ingest.sql: reads, and the changes that people ask for.

Each sees the rows of the store that asks (an operator: of all), though its query should forget to say so.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg

from services.ingest.auth.key_ring import Caller
from shared.domain.job import CANCELLABLE, RETRIABLE, Status
from shared.runtime.postgres import ALL_STORES, Connection, connection_for_store, load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "jobs.sql")

Row = asyncpg.Record


class IngestStore:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def is_restricted(self) -> bool:
        """Whether PostgreSQL keeps us to one store's rows, or only our queries do."""
        return bool(await self._pool.fetchval(_QUERIES["is_restricted"]))

    async def job(self, job: UUID, store: str | None) -> Row | None:
        """A job of this store (None: of any); another store's is as good as none."""
        async with self._seen_by(store) as rows:
            return await rows.fetchrow(_QUERIES["job"], job, store)

    async def waiting(
        self, store: str, expected: Sequence[UUID]
    ) -> tuple[int, int, Sequence[UUID]]:
        """How many jobs wait in a store's queue, and in all queues; and which of those expected have come."""
        async with connection_for_store(self._pool, ALL_STORES) as rows:
            row = await rows.fetchrow(_QUERIES["waiting"], store, expected)
        assert row is not None
        return row["of_store"], row["of_all"], row["arrived"]

    async def budget(self, store: str) -> Row:
        """How a store's budget of this month stands, be there one or not."""
        async with connection_for_store(self._pool, store) as rows:
            row = await rows.fetchrow(_QUERIES["budget"], store)
        assert row is not None
        return row

    async def is_known(self, store: str) -> bool:
        """Whether a store was ever given a key."""
        return bool(await self._pool.fetchval(_QUERIES["is_known"], store))

    async def set_budget(self, store: str, monthly: int, warn_at: float, by: str) -> None:
        async with connection_for_store(self._pool, store) as rows:
            await rows.execute(_QUERIES["set_budget"], store, monthly, warn_at, by)

    async def remove_budget(self, store: str) -> None:
        async with connection_for_store(self._pool, store) as rows:
            await rows.execute(_QUERIES["remove_budget"], store)

    async def steps(self, job: UUID, store: str | None) -> Sequence[Row]:
        """The steps of a job that this store (None: anybody) has."""
        async with self._seen_by(store) as rows:
            return await rows.fetch(_QUERIES["steps"], job)

    async def list(
        self, store: str, *, status: Status | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Row]:
        created_at, job = after or (None, None)
        async with connection_for_store(self._pool, store) as rows:
            return await rows.fetch(_QUERIES["list"], store, status, created_at, job, limit)

    async def cancel(self, job: UUID, caller: Caller) -> Row | None:
        """The job as it is now; None when it is no job of the caller's, or one that cannot be cancelled."""
        who = "the store" if caller.store is not None else caller.name
        async with self._seen_by(caller.store) as rows:
            return await rows.fetchrow(
                _QUERIES["cancel"], job, caller.store, list(CANCELLABLE), f"cancelled by {who}"
            )

    async def retry(self, job: UUID, caller: Caller) -> Row | None:
        """The same for one that is to begin again."""
        async with self._seen_by(caller.store) as rows:
            return await rows.fetchrow(_QUERIES["retry"], job, caller.store, list(RETRIABLE))

    def _seen_by(self, store: str | None) -> AbstractAsyncContextManager[Connection]:
        """The rows that a store sees; None is an operator, who sees all."""
        return connection_for_store(self._pool, store or ALL_STORES)
