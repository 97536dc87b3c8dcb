"""The scheduler's SQL calls, one method per query of sql/scheduler.sql.

Every write of a leader session runs under its epoch: the transaction locks the epoch until it
commits, so the next leader sees all its rows, and a deposed leader writes nothing (`DeposedError`).
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.scheduler.fair_queue.accounts import CounterChange
from services.scheduler.liveness.rules import OpenConnection
from shared.domain.messages import BlogRequested
from shared.runtime.postgres import Connection, load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "scheduler.sql")
_PREFETCH_ROWS = 5_000

Row = asyncpg.Record

UNSTORABLE_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""Errors for values that PostgreSQL can never store: a NUL in a text, a number out of range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEstimateRow:
    """A row of `store_outlooks`: the fields are the query's parameters, in its order."""

    store: str
    reason: str
    limited_by: str | None
    queued: int
    ahead: int
    first_at: datetime | None
    last_at: datetime | None
    estimated_at: datetime
    held: int = 0


class DeposedError(Exception):
    """Another scheduler has raised the epoch, so this one may not write."""


class EpochRepository:
    """Reads and raises the epoch of the leader session."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def take_lead(self, holder: str) -> "SchedulerRepository":
        """Raise the epoch and return the repository of the new leader session."""
        epoch = int(await self._pool.fetchval(_QUERIES["raise_epoch"], holder))
        return SchedulerRepository(self._pool, epoch)

    async def fetch_epoch(self) -> int:
        return int(await self._pool.fetchval(_QUERIES["epoch"]))


class SchedulerRepository:
    """The SQL calls of the leader session with this epoch."""

    def __init__(self, pool: asyncpg.Pool, epoch: int) -> None:
        self.epoch = epoch
        self._pool = pool

    async def fetch_store_counters(self) -> Sequence[Row]:
        return await self._pool.fetch(_QUERIES["store_counters"])

    async def fetch_account_counters(self) -> Sequence[Row]:
        return await self._pool.fetch(_QUERIES["account_counters"])

    async def fetch_configured_stores(self, since: datetime) -> Sequence[Row]:
        """Return stores with an account or weight set after `since`, oldest first."""
        return await self._pool.fetch(_QUERIES["configured_stores"], since)

    async def fetch_budgets(self, in_flight: Mapping[Any, str]) -> Sequence[Row]:
        """Return all budgets with this month's spend.

        `in_flight` maps unsettled jobs to their stores.
        """
        return await self._pool.fetch(
            _QUERIES["budgets"], list(in_flight), list(in_flight.values())
        )

    async def fetch_budgets_version(self) -> Row | None:
        """Return a value that changes whenever a budget is set or removed."""
        return await self._pool.fetchrow(_QUERIES["budgets_version"])

    async def mark_budgets_logged(self, warned: Sequence[str], stopped: Sequence[str]) -> None:
        """Record that this month's log names these stores as warned or stopped."""
        async with self._fenced_transaction() as connection:
            await connection.execute(_QUERIES["mark_budgets_logged"], warned, stopped)

    async def fetch_time(self) -> datetime:
        """Return PostgreSQL's time."""
        now: datetime = await self._pool.fetchval(_QUERIES["time"])
        return now

    async def fetch_user_actions(self, since: datetime) -> Sequence[Row]:
        """Return jobs with a user action after `since`, oldest first."""
        return await self._pool.fetch(_QUERIES["user_actions"], since)

    async def stream_backlog(self) -> AsyncIterator[Row]:
        """Stream the rows that wait or are in flight."""
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            async for row in connection.cursor(_QUERIES["backlog"], prefetch=_PREFETCH_ROWS):
                yield row

    async def fetch_uncharged_jobs(self) -> list[UUID]:
        return [row["id"] for row in await self._pool.fetch(_QUERIES["uncharged_jobs"])]

    async def insert_batch(self, requests: Sequence[BlogRequested]) -> set[UUID]:
        """Insert a batch and return the new ids. A repeated id is inserted once."""
        async with self._fenced_transaction() as connection:
            return await insert_requests(connection, requests)

    async def fetch_untouched(self, jobs: Sequence[UUID]) -> set[UUID]:
        """Return those of the jobs that still wait as they were admitted."""
        return {row["id"] for row in await self._pool.fetch(_QUERIES["untouched_jobs"], jobs)}

    async def fetch_job_states(self, jobs: Sequence[UUID]) -> Sequence[Row]:
        """Return the current rows of these jobs, as input for events."""
        return await self._pool.fetch(_QUERIES["job_states"], jobs)

    async def mark_dispatched(
        self, jobs: Sequence[UUID], partitions: Sequence[int], estimates: Sequence[int]
    ) -> dict[UUID, Row]:
        """Mark jobs as dispatched and return their rows; jobs that no longer wait are missing."""
        async with self._fenced_transaction() as connection:
            rows = await connection.fetch(_QUERIES["mark_dispatched"], jobs, partitions, estimates)
        return {row["id"]: row for row in rows}

    async def settle_jobs(
        self, jobs: Sequence[UUID], charge: Callable[[Sequence[Row]], Sequence[CounterChange]]
    ) -> None:
        """Mark jobs as charged and save the counter changes of `charge`, in one transaction."""
        async with self._fenced_transaction() as connection:
            rows = await connection.fetch(_QUERIES["settle_jobs"], jobs)
            await _save_counters(connection, charge(rows))

    async def save_counters(self, changes: Sequence[CounterChange]) -> None:
        if changes:
            async with self._fenced_transaction() as connection:
                await _save_counters(connection, changes)

    async def save_wait_estimates(
        self, rows: Sequence[WaitEstimateRow], obsolete: Sequence[str]
    ) -> None:
        """Save these rows and delete those of the `obsolete` stores."""
        if not rows and not obsolete:
            return
        async with self._fenced_transaction() as connection:
            if rows:
                columns = zip(*map(astuple, rows), strict=True)
                await connection.execute(_QUERIES["save_wait_estimates"], *map(list, columns))
            if obsolete:
                await connection.execute(_QUERIES["delete_wait_estimates"], obsolete)

    async def clear_wait_estimates(self) -> None:
        async with self._fenced_transaction() as connection:
            await connection.execute(_QUERIES["clear_wait_estimates"])

    async def fetch_connections(self) -> frozenset[OpenConnection]:
        """Return all open connections to this database."""
        rows = await self._pool.fetch(_QUERIES["connections"])
        return frozenset(OpenConnection(*row) for row in rows)

    async def requeue_lost_jobs(
        self, grace_s: float | None, dead_workers: Sequence[str]
    ) -> Sequence[Row]:
        """Requeue jobs of dead workers, and jobs with a lease that expired `grace_s` seconds ago.

        Without `grace_s` an expired lease changes nothing.
        """
        return await self._fetch_fenced("requeue_lost_jobs", grace_s, dead_workers)

    async def release_cancelled_leases(
        self, grace_s: float | None, dead_workers: Sequence[str]
    ) -> Sequence[Row]:
        """Release the leases of cancelled jobs that are lost in the same way.

        `new_in_doubt` counts their in-doubt calls.
        """
        return await self._fetch_fenced("release_cancelled_leases", grace_s, dead_workers)

    async def _fetch_fenced(self, query: str, *arguments: Any) -> Sequence[Row]:
        async with self._fenced_transaction() as connection:
            rows: Sequence[Row] = await connection.fetch(_QUERIES[query], *arguments)
        return rows

    async def requeue_unclaimed(self, timeout_s: float) -> list[UUID]:
        """Requeue jobs dispatched more than `timeout_s` seconds ago and not claimed."""
        async with self._fenced_transaction() as connection:
            rows = await connection.fetch(_QUERIES["requeue_unclaimed"], timeout_s)
        return [row["id"] for row in rows]

    async def fetch_in_flight(self) -> dict[UUID, Row]:
        return {row["id"]: row for row in await self._pool.fetch(_QUERIES["in_flight"])}

    @asynccontextmanager
    async def _fenced_transaction(self) -> AsyncIterator[Connection]:
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchrow(_QUERIES["lock_epoch"], self.epoch) is None:
                raise DeposedError(f"another scheduler leads: the epoch is no longer {self.epoch}")
            yield connection


async def insert_requests(connection: Connection, requests: Sequence[BlogRequested]) -> set[UUID]:
    """Insert rows for requests without one and return the new ids."""
    if not requests:
        return set()
    columns = zip(*(_request_row(request) for request in requests), strict=True)
    rows = await connection.fetch(_QUERIES["insert_requests"], *map(list, columns))
    return {row["id"] for row in rows}


async def _save_counters(connection: Connection, changes: Sequence[CounterChange]) -> None:
    if changes:
        await connection.execute(
            _QUERIES["save_store_counters"],
            [change.store for change in changes],
            [change.served for change in changes],
            [change.mean_cost for change in changes],
            [change.settled_jobs for change in changes],
        )
        await connection.execute(
            _QUERIES["save_account_counters"],
            [change.account for change in changes],
            [change.account_served for change in changes],
        )


def _request_row(request: BlogRequested) -> tuple[Any, ...]:
    return (
        request.id,
        request.store,
        request.source_type,
        request.source_id,
        request,
        request.priority,
        request.run_at,
        request.created_at,
    )
