"""SQL calls about jobs: reads, and the changes that users request.

Every connection sees only the rows of the store that asks; an operator sees all stores. This holds
even for a query without a condition on the store.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg

from services.ingest.auth.key_ring import Caller
from shared.domain.job import CANCELLABLE, RETRIABLE, Status
from shared.domain.stores import ALL_STORES
from shared.runtime.postgres import Connection, connection_for_store, load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "jobs.sql")

Row = asyncpg.Record


@dataclass(frozen=True, slots=True)
class WaitingJobs:
    """Numbers of waiting jobs that have rows."""

    of_store: int
    of_all: int
    arrived: Sequence[UUID]
    """The expected jobs that have a row, waiting or not."""


class JobRepository:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def is_restricted(self) -> bool:
        """Return whether PostgreSQL limits this login to one store's rows."""
        return bool(await self._pool.fetchval(_QUERIES["is_restricted"]))

    async def get_job(self, job: UUID, store: str | None) -> Row | None:
        """Return a job of this store (`None`: of any store)."""
        async with self._connection(store) as connection:
            return await connection.fetchrow(_QUERIES["get_job"], job, store)

    async def count_waiting(self, store: str, expected: Sequence[UUID]) -> WaitingJobs:
        """Count the waiting jobs of a store and of all stores; report the arrived `expected`."""
        async with connection_for_store(self._pool, ALL_STORES) as connection:
            row = await connection.fetchrow(_QUERIES["count_waiting"], store, expected)
        assert row is not None
        return WaitingJobs(row["of_store"], row["of_all"], row["arrived"])

    async def list_steps(self, job: UUID, store: str | None) -> Sequence[Row]:
        """Return the steps of a job of this store (`None`: of any store)."""
        async with self._connection(store) as connection:
            return await connection.fetch(_QUERIES["list_steps"], job)

    async def list_jobs(
        self, store: str, *, status: Status | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Row]:
        created_at, job = after or (None, None)
        async with connection_for_store(self._pool, store) as connection:
            return await connection.fetch(
                _QUERIES["list_jobs"], store, status, created_at, job, limit
            )

    async def cancel_job(self, job: UUID, caller: Caller) -> Row | None:
        """Cancel and return the job.

        Returns `None` when the caller has no such job, or when its status forbids it.
        """
        user = "the store" if caller.store is not None else caller.name
        async with self._connection(caller.store) as connection:
            return await connection.fetchrow(
                _QUERIES["cancel_job"],
                job,
                caller.store,
                list(CANCELLABLE),
                f"cancelled by {user}",
            )

    async def retry_job(self, job: UUID, caller: Caller) -> Row | None:
        """Queue an ended job again and return it; `None` as for `cancel_job`."""
        async with self._connection(caller.store) as connection:
            return await connection.fetchrow(
                _QUERIES["retry_job"], job, caller.store, list(RETRIABLE)
            )

    def _connection(self, store: str | None) -> AbstractAsyncContextManager[Connection]:
        """Open a connection that sees this store's rows, or all rows for an operator (`None`)."""
        return connection_for_store(self._pool, store or ALL_STORES)
