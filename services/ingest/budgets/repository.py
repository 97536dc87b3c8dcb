"""SQL calls about the budgets of stores."""

from pathlib import Path

import asyncpg

from shared.runtime.postgres import connection_for_store, load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "budgets.sql")


class BudgetRepository:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def get_budget(self, store: str) -> asyncpg.Record:
        """Return a store's budget and spend of this month, with or without a budget."""
        async with connection_for_store(self._pool, store) as connection:
            row = await connection.fetchrow(_QUERIES["get_budget"], store)
        assert row is not None
        return row

    async def has_store(self, store: str) -> bool:
        """Return whether a store has ever had a key."""
        return bool(await self._pool.fetchval(_QUERIES["has_store"], store))

    async def set_budget(self, store: str, monthly: int, warn_at: float, operator: str) -> None:
        """Set the monthly limit in nano-USD, and the share of it at which the store is warned."""
        async with connection_for_store(self._pool, store) as connection:
            await connection.execute(_QUERIES["set_budget"], store, monthly, warn_at, operator)

    async def remove_budget(self, store: str) -> None:
        async with connection_for_store(self._pool, store) as connection:
            await connection.execute(_QUERIES["remove_budget"], store)
