"""Calls PostgreSQL for the quota: one method for each query of `sql/provider_calls.sql`."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import asyncpg

from shared.runtime.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "provider_calls.sql")


class ProviderCallRepository:
    """Reads and deletes the records of provider calls. `begin_step` of the jobs writes them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def spent_since(self, times: Mapping[int, datetime]) -> dict[tuple[int, str], float]:
        """Sum the reservations since each time, by partition and "provider/resource"."""
        rows = await self._pool.fetch(_QUERIES["spent_since"], list(times), list(times.values()))
        return {
            (row["partition"], f"{row['provider']}/{resource}"): row[resource]
            for row in rows
            for resource in ("requests", "tokens")
        }

    async def delete_old_calls(self) -> None:
        """Delete records of provider calls after 10 minutes, when all checkpoints include them."""
        await self._pool.execute(_QUERIES["delete_old_calls"])
