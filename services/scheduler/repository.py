"""scheduler's calls to PostgreSQL, one function a query of sql/scheduler.sql.

Every write runs under the leader's epoch: it holds the lead until it is committed, so a successor's first look at the
rows already shows it, and a deposed leader writes nothing (`DeposedError`).
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
from shared.domain.messages import BlogRequested
from shared.runtime.postgres import Connection, load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "scheduler.sql")
_CHUNK = 5_000

Row = asyncpg.Record

UNSTORABLE_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""What PostgreSQL says of values that it can never store: a NUL in a text, a number beyond its column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEstimateRow:
    """Why a store's jobs wait, and until about when. The fields are the table's columns, in their order."""

    store: str
    reason: str
    limited_by: str | None
    queued: int
    ahead: int
    first_at: datetime | None
    last_at: datetime | None
    said_at: datetime
    held: int = 0


class DeposedError(Exception):
    """Another scheduler has raised the epoch: this one may write nothing more."""


class SchedulerRepository:
    """`epoch` is the one that `take_lead` gave."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def take_lead(self, holder: str) -> int:
        return int(await self._pool.fetchval(_QUERIES["take_lead"], holder))

    async def epoch(self) -> int:
        return int(await self._pool.fetchval(_QUERIES["epoch"]))

    async def counters(self) -> Sequence[Row]:
        return await self._pool.fetch(_QUERIES["counters"])

    async def accounts(self) -> Sequence[Row]:
        return await self._pool.fetch(_QUERIES["accounts"])

    async def configured(self, since: datetime) -> Sequence[Row]:
        """Stores whose account or weight somebody has set after `since`, in the order in which it was done."""
        return await self._pool.fetch(_QUERIES["configured"], since)

    async def budgets(self, flying: Mapping[Any, str]) -> Sequence[Row]:
        """All stores' budgets and how far they are used. `flying` are jobs not settled yet, with their stores."""
        return await self._pool.fetch(_QUERIES["budgets"], list(flying), list(flying.values()))

    async def budgets_set(self) -> Row | None:
        """Differs from what it was when somebody has set a budget since, or removed one."""
        return await self._pool.fetchrow(_QUERIES["budgets_set"])

    async def note_told(self, warned: Sequence[str], stopped: Sequence[str], epoch: int) -> None:
        """That the log has said it of these stores this month."""
        async with self._leading(epoch) as connection:
            await connection.execute(_QUERIES["note_told"], warned, stopped)

    async def clock(self) -> datetime:
        """PostgreSQL's time."""
        now: datetime = await self._pool.fetchval(_QUERIES["clock"])
        return now

    async def intervened(self, since: datetime) -> Sequence[Row]:
        """Jobs that somebody has cancelled or asked for again after `since`, in the order in which it was done."""
        return await self._pool.fetch(_QUERIES["intervened"], since)

    async def backlog(self) -> AsyncIterator[Row]:
        """Rows that wait or are in flight, streamed."""
        async with self._pool.acquire() as connection, connection.transaction(readonly=True):
            async for row in connection.cursor(_QUERIES["backlog"], prefetch=_CHUNK):
                yield row

    async def uncharged(self) -> list[UUID]:
        return [row["id"] for row in await self._pool.fetch(_QUERIES["uncharged"])]

    async def admit(self, requests: Sequence[BlogRequested], epoch: int) -> set[UUID]:
        """Insert a batch; the ids that are new. An id twice in one batch is inserted once."""
        async with self._leading(epoch) as connection:
            return await insert_requests(connection, requests)

    async def untouched(self, jobs: Sequence[UUID]) -> set[UUID]:
        """Those of the jobs that wait as they were admitted."""
        return {row["id"] for row in await self._pool.fetch(_QUERIES["untouched"], jobs)}

    async def told(self, jobs: Sequence[UUID]) -> Sequence[Row]:
        """What is true of these jobs."""
        return await self._pool.fetch(_QUERIES["told"], jobs)

    async def forward(
        self, jobs: Sequence[UUID], partitions: Sequence[int], estimates: Sequence[int], epoch: int
    ) -> dict[UUID, Row]:
        """How often each job has now been forwarded, and its trace; jobs that may not go are missing."""
        async with self._leading(epoch) as connection:
            rows = await connection.fetch(_QUERIES["forward"], jobs, partitions, estimates)
        return {row["id"]: row for row in rows}

    async def settle(
        self,
        jobs: Sequence[UUID],
        epoch: int,
        charge: Callable[[Sequence[Row]], Sequence[CounterChange]],
    ) -> None:
        """Mark jobs as charged and save what `charge` makes of it, both or neither."""
        async with self._leading(epoch) as connection:
            await _save(connection, charge(await connection.fetch(_QUERIES["settle"], jobs)))

    async def save_counters(self, changes: Sequence[CounterChange], epoch: int) -> None:
        if changes:
            async with self._leading(epoch) as connection:
                await _save(connection, changes)

    async def save_outlooks(
        self, rows: Sequence[WaitEstimateRow], over: Sequence[str], epoch: int
    ) -> None:
        """Save these, drop those of the stores in `over`."""
        if not rows and not over:
            return
        async with self._leading(epoch) as connection:
            if rows:
                await connection.execute(
                    _QUERIES["save_outlooks"], *map(list, zip(*map(astuple, rows), strict=True))
                )
            if over:
                await connection.execute(_QUERIES["drop_outlooks"], over)

    async def clear_outlooks(self, epoch: int) -> None:
        async with self._leading(epoch) as connection:
            await connection.execute(_QUERIES["clear_outlooks"])

    async def return_lost(self, grace_s: float, epoch: int) -> Sequence[Row]:
        async with self._leading(epoch) as connection:
            rows: Sequence[Row] = await connection.fetch(_QUERIES["return_lost"], grace_s)
        return rows

    async def let_go_lost(self, grace_s: float, epoch: int) -> Sequence[Row]:
        """Cancelled jobs whose workers are gone, with the calls that nobody knows the end of (`doubts`)."""
        async with self._leading(epoch) as connection:
            rows: Sequence[Row] = await connection.fetch(_QUERIES["let_go_lost"], grace_s)
        return rows

    async def return_unclaimed(self, timeout_s: float, epoch: int) -> list[UUID]:
        async with self._leading(epoch) as connection:
            return [
                row["id"] for row in await connection.fetch(_QUERIES["return_unclaimed"], timeout_s)
            ]

    async def in_flight(self) -> dict[UUID, Row]:
        return {row["id"]: row for row in await self._pool.fetch(_QUERIES["in_flight"])}

    @asynccontextmanager
    async def _leading(self, epoch: int) -> AsyncIterator[Connection]:
        async with self._pool.acquire() as connection, connection.transaction():
            if await connection.fetchrow(_QUERIES["fence"], epoch) is None:
                raise DeposedError(f"another scheduler leads: the epoch is no longer {epoch}")
            yield connection


async def insert_requests(connection: Connection, requests: Sequence[BlogRequested]) -> set[UUID]:
    """Rows for those that have none: their ids."""
    if not requests:
        return set()
    columns = zip(*(_row(request) for request in requests), strict=True)
    return {row["id"] for row in await connection.fetch(_QUERIES["admit"], *map(list, columns))}


async def _save(connection: Connection, changes: Sequence[CounterChange]) -> None:
    if changes:
        await connection.execute(
            _QUERIES["save_counters"],
            [change.store for change in changes],
            [change.served for change in changes],
            [change.mean_cost for change in changes],
            [change.settled_jobs for change in changes],
        )
        await connection.execute(
            _QUERIES["save_accounts"],
            [change.account for change in changes],
            [change.account_served for change in changes],
        )


def _row(request: BlogRequested) -> tuple[Any, ...]:
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
