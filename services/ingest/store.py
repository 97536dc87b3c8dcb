"""ingest's reads from PostgreSQL. It writes nothing there."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg

from shared.job import Status
from shared.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "ingest.sql")

Row = asyncpg.Record


class IngestStore:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def job(self, job: UUID, store: str) -> Row | None:
        """A job of this store; another store's is as good as none."""
        return await self._pool.fetchrow(_QUERIES["job"], job, store)

    async def steps(self, job: UUID) -> Sequence[Row]:
        return await self._pool.fetch(_QUERIES["steps"], job)

    async def list(
        self, store: str, *, status: Status | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Row]:
        created_at, job = after or (None, None)
        return await self._pool.fetch(_QUERIES["list"], store, status, created_at, job, limit)
