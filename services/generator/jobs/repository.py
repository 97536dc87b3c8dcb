"""Calls PostgreSQL for leases and steps: one method for each query of `sql/jobs.sql`.

The lease fences every write. Calls that belong to a lease retry while PostgreSQL is unavailable: a
paid answer must not be lost, nor paid for twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import TypeAdapter, ValidationError

from services.generator.quota.rules import Permit
from shared.domain.job import Status, Step, check_transition
from shared.domain.messages import BlogRequested, Usage
from shared.observability.log import get_logger
from shared.runtime.postgres import load_queries, retry_while_unavailable

log = get_logger(__name__)

_QUERIES = load_queries(Path(__file__).parent / "sql" / "jobs.sql")
_REQUEST = TypeAdapter(BlogRequested)


class LeaseLostError(Exception):
    """The lease has ended, by cancellation or by the scheduler: no further write is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to run a job. `attempt` (the fencing token) and `worker` fence every write."""

    job: UUID
    attempt: int
    counted_attempts: int
    """Attempts so far, including this one, without those that failed for no fault of the job."""
    worker: str
    request: BlogRequested
    created_at: datetime
    started_at: datetime
    forwarded_at: datetime
    permit_rank: float = 0.0
    """The job's rank in the permit queues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStep:
    """A row of `blog_steps`."""

    state: str
    external_id: str | None
    result: dict[str, Any] | None
    in_doubt: int = 0
    """In-doubt calls: begun and never answered, perhaps billed."""
    account: str | None = None
    """The provider account that gave `external_id`."""
    isolated_in_doubt: int = 0
    """In-doubt calls since the last retry by a user that no outage explains: other jobs were served
    meanwhile, or the worker died."""
    unusable: int = 0
    """Paid and unusable answers since the last retry by a user."""
    gave_up: str | None = None
    """The error code with which an attempt gave up, if no user has retried the job since."""
    age_s: float = 0.0
    """The time since the step's last call began, in seconds."""

    @property
    def done(self) -> dict[str, Any] | None:
        """The saved answer, or `None`."""
        return self.result if self.state == "DONE" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailure:
    """What a failed call means for the limits of its step."""

    in_doubt: bool = False
    """The call may have been billed, but its answer is lost."""
    isolated: bool = False
    """No outage explains that loss."""
    unusable: bool = False
    """The answer was paid, or may have been, and is of no use."""
    gave_up: str | None = None
    """The error code if the step is not repeated."""
    ended_id: str | None = None
    """The external id of a prediction that ended without an image. It is removed."""


_NO_FAILURE = StepFailure()


@dataclass(frozen=True, slots=True, kw_only=True)
class BlogPost:
    """The assembled post of a job."""

    title: str
    slug: str
    meta_description: str
    html: str
    image_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """The recorded end of an attempt: the cost of the job so far, and its earliest next start."""

    usage: Usage
    at: datetime
    not_before: datetime | None


class GenerationRepository:
    """The SQL of one worker. `lease_s` is the duration of a lease in seconds."""

    def __init__(self, pool: asyncpg.Pool, *, worker: str, lease_s: float) -> None:
        self._pool = pool
        self._worker = worker
        self._lease_s = lease_s

    async def claim_job(self, job: UUID, *, permit_rank: float = 0.0) -> Lease | None:
        """Claim a dispatched job. Returns `None` if it cannot be claimed.

        A job whose stored request cannot be parsed fails here.
        """
        row = await self._pool.fetchrow(_QUERIES["claim_job"], job, self._worker, self._lease_s)
        if row is None:
            return None
        try:
            request = _REQUEST.validate_python(row["request"])
        except ValidationError as error:
            await self._fail_unreadable(job, row["attempt"], error)
            return None
        return Lease(
            job=job,
            attempt=row["attempt"],
            counted_attempts=row["counted_attempts"],
            worker=self._worker,
            request=request,
            created_at=row["created_at"],
            started_at=row["started_at"],
            forwarded_at=row["forwarded_at"],
            permit_rank=permit_rank,
        )

    async def _fail_unreadable(self, job: UUID, attempt: int, error: ValidationError) -> None:
        reason = f"the stored request cannot be read: {error.errors(include_url=False)[0]['msg']}"
        log.error("job failed", job=str(job), code="unreadable", reason=reason)
        await self._pool.fetchrow(
            _QUERIES["end_attempt"],
            job,
            attempt,
            self._worker,
            Status.FAILED,
            "unreadable",
            reason,
            0.0,
            False,
        )

    async def find_job(self, job: UUID) -> asyncpg.Record | None:
        return await self._pool.fetchrow(_QUERIES["find_job"], job)

    async def extend_leases(self, jobs: Sequence[UUID]) -> set[UUID]:
        """Extend the leases of this worker's jobs. Returns the jobs that it still holds."""
        rows = await self._pool.fetch(_QUERIES["extend_leases"], self._worker, jobs, self._lease_s)
        return {row["id"] for row in rows}

    async def find_cancelled(self, jobs: Sequence[UUID]) -> set[UUID]:
        """Return the cancelled ones of these jobs."""
        return {row["id"] for row in await self._pool.fetch(_QUERIES["find_cancelled"], jobs)}

    async def release_cancelled(self, lease: Lease) -> asyncpg.Record | None:
        """Record that this worker has stopped a cancelled job.

        Returns the job's row, or `None` if the job is not cancelled.
        """
        return await self._persist(
            lease, "release_cancelled", lease.job, lease.attempt, lease.worker
        )

    async def load_steps(self, lease: Lease) -> dict[Step, SavedStep]:
        """Load the saved steps of a job."""
        rows = await retry_while_unavailable(
            lambda: self._pool.fetch(_QUERIES["load_steps"], lease.job),
            operation="load steps",
            **_log_fields(lease),
        )
        return {Step(row["step"]): _saved_step(row) for row in rows}

    async def begin_step(self, lease: Lease, step: Step, permit: Permit) -> SavedStep:
        """Record that the step's call begins. Returns the saved step.

        Raises `LeaseLostError` if the lease is lost.
        """
        needs = permit.reservation.needs
        row = await self._persist(
            lease,
            "begin_step",
            lease.job,
            step,
            lease.attempt,
            lease.worker,
            permit.granted_at,
            permit.partition,
            permit.provider,
            int(needs.get("requests", 0)),
            int(needs.get("tokens", 0)),
        )
        if row is None:
            raise LeaseLostError(f"job {lease.job}, attempt {lease.attempt}")
        return _saved_step(row)

    async def withdraw_step(self, lease: Lease, step: Step) -> None:
        """Take back the begin of a call that was not made."""
        await self._persist(lease, "withdraw_step", lease.job, step, lease.attempt)

    async def save_external_id(
        self, lease: Lease, step: Step, external_id: str, *, account: str
    ) -> None:
        """Save the id that a provider account gave to the step's call."""
        await self._persist(lease, "save_external_id", lease.job, step, external_id, account)

    async def finish_step(
        self,
        lease: Lease,
        step: Step,
        *,
        state: str,
        usage: Usage,
        result: dict[str, Any] | None = None,
        failure: StepFailure = _NO_FAILURE,
    ) -> None:
        """Save a step's answer (`state` DONE) or failure, and its cost."""
        await self._persist(
            lease,
            "finish_step",
            lease.job,
            step,
            state,
            result,
            usage.input_tokens,
            usage.output_tokens,
            usage.images,
            usage.cost_nanousd,
            lease.attempt,
            failure.in_doubt,
            failure.unusable,
            failure.ended_id,
            usage.reasoning_tokens,
            failure.in_doubt and failure.isolated,
            failure.gave_up,
        )

    async def complete_job(self, lease: Lease, post: BlogPost) -> AttemptEnd:
        """Save the post and the status DONE in one transaction, or raise `LeaseLostError`."""
        return await retry_while_unavailable(
            lambda: self._complete(lease, post), operation="complete job", **_log_fields(lease)
        )

    async def fail_job(self, lease: Lease, *, code: str, reason: str) -> AttemptEnd:
        return await self._end(lease, Status.FAILED, code=code, reason=reason)

    async def requeue_job(
        self, lease: Lease, *, delay_s: float, reason: str, blameless: bool = False
    ) -> AttemptEnd:
        """Return the job to the queue. It is not dispatched again within `delay_s` seconds."""
        return await self._end(
            lease, Status.PENDING, code="retry", reason=reason, delay_s=delay_s, blameless=blameless
        )

    async def _persist(self, lease: Lease, query: str, *arguments: Any) -> asyncpg.Record | None:
        return await retry_while_unavailable(
            lambda: self._pool.fetchrow(_QUERIES[query], *arguments),
            operation=query.replace("_", " "),
            **_log_fields(lease),
        )

    async def _end(self, lease: Lease, status: Status, **fields: Any) -> AttemptEnd:
        return await retry_while_unavailable(
            lambda: _end_attempt(self._pool, lease, status, **fields),
            operation="end attempt",
            **_log_fields(lease),
        )

    async def _complete(self, lease: Lease, post: BlogPost) -> AttemptEnd:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_QUERIES["finish_assembly"], lease.job, lease.attempt)
            await connection.execute(
                _QUERIES["save_post"],
                lease.job,
                post.title,
                post.slug,
                post.meta_description,
                post.html,
                post.image_url,
            )
            return await _end_attempt(connection, lease, Status.DONE)


def _saved_step(row: asyncpg.Record) -> SavedStep:
    return SavedStep(
        state=row["state"],
        external_id=row["external_id"],
        result=row["result"],
        in_doubt=row["in_doubt"],
        account=row["account"],
        isolated_in_doubt=row["isolated_in_doubt"],
        unusable=row["counted_unusable"],
        gave_up=row["gave_up"],
        age_s=row["age_s"],
    )


def _log_fields(lease: Lease) -> dict[str, str]:
    return {"job": str(lease.job), "store": lease.request.store}


async def _end_attempt(
    database: Any,
    lease: Lease,
    status: Status,
    *,
    code: str | None = None,
    reason: str | None = None,
    delay_s: float = 0.0,
    blameless: bool = False,
) -> AttemptEnd:
    row = await database.fetchrow(
        _QUERIES["end_attempt"],
        lease.job,
        lease.attempt,
        lease.worker,
        check_transition(Status.PROCESSING, status),
        code,
        reason,
        delay_s,
        blameless,
    )
    if row is None:
        raise LeaseLostError(f"job {lease.job}, attempt {lease.attempt}")
    usage = Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        images=row["images"],
        cost_nanousd=row["cost_nanousd"],
        in_doubt=row["in_doubt"],
        reasoning_tokens=row["reasoning_tokens"],
    )
    return AttemptEnd(usage=usage, at=row["at"], not_before=row["not_before"])
