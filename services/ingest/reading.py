"""A job as it is read: from PostgreSQL, waited for while it is fresh, another store's as good as none."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from services.ingest import view
from services.ingest.keys import Caller
from services.ingest.store import IngestStore, Row
from shared.http import Problem
from shared.postgres import AWAY

T = TypeVar("T")

_WITHIN_S = 5.0
"""A server that takes connections and says nothing must not hold up readers, nor they the pool's connections."""


class JobReader:
    def __init__(self, store: IngestStore, *, fresh_wait_s: float) -> None:
        self._store = store
        self._fresh_wait_s = fresh_wait_s

    async def row(self, job: UUID, caller: Caller) -> Row:
        """The job's row, or a 404; a job just accepted has none for a moment, so it is waited for."""
        give_up = asyncio.get_running_loop().time() + self._fresh_wait_s
        row = await reading(self._store.job(job, caller.store))
        while row is None and _may_be_fresh(job) and asyncio.get_running_loop().time() < give_up:
            await asyncio.sleep(0.05)
            row = await reading(self._store.job(job, caller.store))
        if row is None:
            raise Problem(404, "Not Found", detail="this store has no such job" if caller.store else "no such job")
        return row

    async def whole(self, job: UUID, caller: Caller) -> dict[str, Any]:
        """The job with its steps and post, as clients see it."""
        row = await self.row(job, caller)
        steps = await reading(self._store.steps(job, caller.store))
        return view.whole(dict(row), [dict(step) for step in steps], datetime.now(UTC))


async def reading(read: Awaitable[T]) -> T:
    """What PostgreSQL answers, or a 503 while it is away."""
    try:
        async with asyncio.timeout(_WITHIN_S):
            return await read
    except AWAY:
        raise Problem(
            503, "Service Unavailable", detail="PostgreSQL is away; accepted requests are kept",
            headers={"Retry-After": "5"},
        ) from None  # fmt: skip


def _may_be_fresh(job: UUID) -> bool:
    """Whether an id can be of the last ten seconds: a UUIDv7 tells its time, a derived id (version 5) does not."""
    if job.version == 7:
        return abs(datetime.now(UTC).timestamp() - (job.int >> 80) / 1000) < 10
    return job.version == 5
