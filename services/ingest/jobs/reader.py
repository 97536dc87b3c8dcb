"""A job as it is read: from PostgreSQL, waited for while it is fresh, another store's as good as none.

Who got a 201 may ask for the job before the scheduler has admitted it, which takes moments, or hours when it is away:
that is no 404, which clients take for the last word. An id that nobody was given answers the same for as long as Kafka
keeps requests: who asks in vain loses less than who takes an accepted job for none, and pays for another.
"""

import asyncio
import math
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from services.ingest.auth.key_ring import Caller
from services.ingest.jobs import view
from services.ingest.jobs.repository import IngestStore, Row
from services.ingest.submit.bulk_reservations import Underway
from services.ingest.submit.idempotency import Claims
from shared.http.responses import Problem
from shared.kafka.topics import REQUESTS
from shared.runtime.postgres import UNAVAILABLE_ERRORS

T = TypeVar("T")

_WITHIN_S = 5.0
"""A server that takes connections and says nothing must not hold up readers, nor they the pool's connections."""


_FRESH_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.4
_ACCEPTED_WITHIN_S = REQUESTS.retention_ms / 1000
"""A request that is older is not on its way any more: Kafka has it no longer."""
_AHEAD_S = 60.0
"""Clocks of other machines may be so much ahead."""


class JobReader:
    """`claims` and `underway` know of ids that have no row yet and do not tell their age."""

    def __init__(
        self, store: IngestStore, *, claims: Claims, underway: Underway, fresh_wait_s: float
    ) -> None:
        self._store = store
        self._claims = claims
        self._underway = underway
        self._fresh_wait_s = fresh_wait_s

    async def row(self, job: UUID, caller: Caller) -> Row:
        """The job's row, waited for while it is fresh. 503 when it may yet come; 404 when the store has no such job."""
        row = await reading(self._store.job(job, caller.store))
        if row is None:
            row = await self._waited_for(job, caller)
        if row is None and self._is_accepted(job):
            row = await self._come_since(job, caller)
        if row is None:
            raise Problem(
                404,
                "Not Found",
                detail="this store has no such job" if caller.store else "no such job",
            )
        return row

    async def _waited_for(self, job: UUID, caller: Caller) -> Row | None:
        """A derived id tells no age: only one that is known to be accepted is worth a look."""
        if job.version != 5 and not -_AHEAD_S < _age_s(job) < _FRESH_S:
            return None
        now = asyncio.get_running_loop().time
        row, pause, give_up = None, _FIRST_PAUSE_S, now() + self._fresh_wait_s
        while row is None and now() < give_up:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            if self._is_accepted(job):
                row = await reading(self._store.job(job, caller.store))
        return row

    async def _come_since(self, job: UUID, caller: Caller) -> Row | None:
        """The row of an accepted job, if it came since the last look; a 503 while it may yet come.

        With a row of another store's it never will.
        """
        row = await reading(self._store.job(job, None))
        if row is None:
            detail = "no such job yet: a request that got a 201 is kept, and will be there once it is admitted"
            raise Problem(503, "Service Unavailable", detail=detail, headers={"Retry-After": "2"})
        return row if caller.store in (None, row["instance_id"]) else None

    def _is_accepted(self, job: UUID) -> bool:
        """Whether this may be the id of a request that was accepted and is not admitted yet."""
        if job.version != 5:
            return -_AHEAD_S < _age_s(job) < _ACCEPTED_WITHIN_S
        return job in self._underway or self._claims.known(job, datetime.now(UTC)) is not None

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
    except UNAVAILABLE_ERRORS:
        raise Problem(
            503,
            "Service Unavailable",
            detail="PostgreSQL is away; accepted requests are kept",
            headers={"Retry-After": "5"},
        ) from None


def _age_s(job: UUID) -> float:
    """By the time that a UUIDv7 tells; others tell none, and are as old as can be."""
    return datetime.now(UTC).timestamp() - (job.int >> 80) / 1000 if job.version == 7 else math.inf
