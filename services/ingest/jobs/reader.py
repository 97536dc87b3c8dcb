"""Reads jobs from PostgreSQL, including jobs that the scheduler has not admitted yet.

A client may ask for a job right after its 201. Admission takes moments, or hours while the
scheduler is down. Such a request returns 503, because clients treat 404 as final. Until a job is
admitted, requests for it return 503; retry. 404 is final. An unknown id may also return 503 for as
long as Kafka keeps requests: a needless retry costs less than paying twice for an accepted job.
"""

import asyncio
import math
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from services.ingest.auth.key_ring import Caller
from services.ingest.jobs import view
from services.ingest.jobs.repository import JobRepository, Row
from services.ingest.submit.idempotency import IdempotencyIndex
from services.ingest.submit.unadmitted_jobs import UnadmittedBulkJobs
from shared.http.responses import Problem
from shared.kafka.topics import REQUESTS
from shared.runtime.postgres import UNAVAILABLE_ERRORS

T = TypeVar("T")

_DEADLINE_S = 5.0
"""A silent server must not delay readers for longer, nor they hold the pool's connections."""
_FRESH_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.4
_MAX_REQUEST_AGE_S = REQUESTS.retention_ms / 1000
"""Kafka no longer holds older requests, so they cannot be admitted any more."""
_CLOCK_LEAD_S = 60.0
"""Tolerated lead of other machines' clocks."""


class JobReader:
    """`idempotency` and `unadmitted` know accepted ids without a row whose age is unknown."""

    def __init__(
        self,
        jobs: JobRepository,
        *,
        idempotency: IdempotencyIndex,
        unadmitted: UnadmittedBulkJobs,
        fresh_wait_s: float,
    ) -> None:
        self._jobs = jobs
        self._idempotency = idempotency
        self._unadmitted = unadmitted
        self._fresh_wait_s = fresh_wait_s

    async def get_row(self, job: UUID, caller: Caller) -> Row:
        """Return the job's row; waits for the row of a fresh job.

        Raises 503 while the row may still appear, and 404 when the caller has no such job.
        """
        row = await read_or_refuse(self._jobs.get_job(job, caller.store))
        if row is None:
            row = await self._wait_for_fresh_row(job, caller)
        if row is None and self._may_be_accepted(job):
            row = await self._get_accepted_row(job, caller)
        if row is None:
            detail = "this store has no such job" if caller.store else "no such job"
            raise Problem(404, "Not Found", detail=detail)
        return row

    async def get_detail(self, job: UUID, caller: Caller) -> dict[str, Any]:
        """Return the job with its steps and post, as clients see it."""
        row = await self.get_row(job, caller)
        steps = await read_or_refuse(self._jobs.list_steps(job, caller.store))
        return view.job_detail(dict(row), [dict(step) for step in steps], datetime.now(UTC))

    async def _wait_for_fresh_row(self, job: UUID, caller: Caller) -> Row | None:
        """Poll for the row of a fresh id. An id without an age is polled only if accepted."""
        if job.version != 5 and not -_CLOCK_LEAD_S < _age_s(job) < _FRESH_S:
            return None
        now = asyncio.get_running_loop().time
        row, pause, give_up = None, _FIRST_PAUSE_S, now() + self._fresh_wait_s
        while row is None and now() < give_up:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            if self._may_be_accepted(job):
                row = await read_or_refuse(self._jobs.get_job(job, caller.store))
        return row

    async def _get_accepted_row(self, job: UUID, caller: Caller) -> Row | None:
        """Return the row if it has appeared since the last read; `None` if another store owns it.

        Raises 503 while no store has such a row.
        """
        row = await read_or_refuse(self._jobs.get_job(job, None))
        if row is None:
            detail = "the job is not admitted yet; an accepted request is kept, so retry"
            raise Problem(503, "Service Unavailable", detail=detail, headers={"Retry-After": "2"})
        return row if caller.store in (None, row["store"]) else None

    def _may_be_accepted(self, job: UUID) -> bool:
        """Return whether this may be the id of an accepted request that is not admitted yet."""
        if job.version != 5:
            return -_CLOCK_LEAD_S < _age_s(job) < _MAX_REQUEST_AGE_S
        if job in self._unadmitted:
            return True
        return self._idempotency.find_first_request(job, datetime.now(UTC)) is not None


async def read_or_refuse(read: Awaitable[T]) -> T:
    """Await a read of PostgreSQL; 503 while the server is unavailable."""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            return await read
    except UNAVAILABLE_ERRORS:
        raise Problem(
            503,
            "Service Unavailable",
            detail="PostgreSQL is unavailable; accepted requests are kept",
            headers={"Retry-After": "5"},
        ) from None


def _age_s(job: UUID) -> float:
    """Return the age of a UUIDv7 in seconds; infinity for other versions, which hold no time."""
    return datetime.now(UTC).timestamp() - (job.int >> 80) / 1000 if job.version == 7 else math.inf
