"""generator's calls to PostgreSQL, one method a query of sql/generator.sql. Every write is fenced by the claim.

Whatever belongs to a claim waits while PostgreSQL is away: what was paid for must not be lost, nor paid for again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import TypeAdapter, ValidationError

from services.generator.quota.rules import Permit
from shared.domain.job import Status, Step
from shared.domain.messages import BlogRequested, Usage
from shared.observability.log import get_logger
from shared.runtime.postgres import load_queries, retry_while_unavailable

log = get_logger(__name__)

_QUERIES = load_queries(Path(__file__).parent / "sql" / "jobs.sql")
_REQUEST = TypeAdapter(BlogRequested)


class LeaseLostError(Exception):
    """Another worker, a cancellation or the scheduler has taken the job: nothing more may be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on a job: `attempt` and `worker` fence every write."""

    job: UUID
    attempt: int
    tries: int
    """Attempts so far, this one included, but for those that ended through no fault of the job."""
    worker: str
    request: BlogRequested
    created_at: datetime
    started_at: datetime
    forwarded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStep:
    state: str
    external_id: str | None
    result: dict[str, Any] | None
    in_doubt: int = 0
    """Calls that were begun and never answered: perhaps paid in vain."""

    @property
    def done(self) -> dict[str, Any] | None:
        """The saved answer, if there is one."""
        return self.result if self.state == "DONE" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlogPost:
    title: str
    slug: str
    meta_description: str
    html: str
    image_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """An attempt that was ended in the database: what the job has cost, and when it is to be tried again."""

    usage: Usage
    at: datetime
    not_before: datetime | None


class GenerationRepository:
    def __init__(self, pool: asyncpg.Pool, *, worker: str, lease_s: float) -> None:
        self._pool = pool
        self._worker = worker
        self._lease_s = lease_s

    async def claim_job(self, job: UUID) -> Lease | None:
        """The right to work on a job; None when there is none to have. One whose request cannot be read ends here."""
        row = await self._pool.fetchrow(_QUERIES["claim"], job, self._worker, self._lease_s)
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
            tries=row["tries"],
            worker=self._worker,
            request=request,
            created_at=row["created_at"],
            started_at=row["started_at"],
            forwarded_at=row["forwarded_at"],
        )

    async def _fail_unreadable(self, job: UUID, attempt: int, error: ValidationError) -> None:
        reason = f"the stored request cannot be read: {error.errors(include_url=False)[0]['msg']}"
        log.error("a job is failed", job=str(job), reason=reason)
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
        return await self._pool.fetchrow(_QUERIES["look"], job)

    async def extend_leases(self, jobs: Sequence[UUID]) -> set[UUID]:
        """The jobs that are still this worker's own."""
        rows = await self._pool.fetch(_QUERIES["heartbeat"], self._worker, jobs, self._lease_s)
        return {row["id"] for row in rows}

    async def find_cancelled(self, jobs: Sequence[UUID]) -> set[UUID]:
        """Those of the jobs that somebody has cancelled."""
        return {row["id"] for row in await self._pool.fetch(_QUERIES["cancelled"], jobs)}

    async def release_cancelled(self, claim: Lease) -> asyncpg.Record | None:
        """Say that this worker has stopped working on a job, should it be a cancelled one: what is true of it then."""
        return await self._persist(claim, "let_go", claim.job, claim.attempt, claim.worker)

    async def load_steps(self, claim: Lease) -> dict[Step, SavedStep]:
        """What is saved of a job's steps."""
        rows = await retry_while_unavailable(
            lambda: self._pool.fetch(_QUERIES["steps"], claim.job), **_log_fields(claim)
        )
        return {
            Step(row["step"]): SavedStep(
                state=row["state"],
                external_id=row["external_id"],
                result=row["result"],
                in_doubt=row["in_doubt"],
            )
            for row in rows
        }

    async def begin_step(self, claim: Lease, step: Step, grant: Permit) -> SavedStep:
        """Note that the step's call begins. What is known of it; `LeaseLostError` when it may not."""
        needs = grant.reservation.needs
        row = await self._persist(
            claim,
            "begin_step",
            claim.job,
            step,
            claim.attempt,
            claim.worker,
            grant.at,
            grant.partition,
            grant.provider,
            int(needs.get("requests", 0)),
            int(needs.get("tokens", 0)),
        )
        if row is None:
            raise LeaseLostError(f"job {claim.job}, attempt {claim.attempt}")
        return SavedStep(
            state=row["state"],
            external_id=row["external_id"],
            result=row["result"],
            in_doubt=row["in_doubt"],
        )

    async def spent_since(self, times: Mapping[int, datetime]) -> dict[tuple[int, str], float]:
        """What calls have reserved since a time, by partition and "provider/resource"."""
        rows = await self._pool.fetch(_QUERIES["spent_since"], list(times), list(times.values()))
        return {
            (row["partition"], f"{row['provider']}/{resource}"): row[resource]
            for row in rows
            for resource in ("requests", "tokens")
        }

    async def delete_old_calls(self) -> None:
        await self._pool.execute(_QUERIES["forget_calls"])

    async def save_external_id(self, claim: Lease, step: Step, external_id: str) -> None:
        await self._persist(claim, "name_call", claim.job, step, external_id)

    async def clear_external_id(self, claim: Lease, step: Step, external_id: str) -> None:
        await self._persist(claim, "forget_call", claim.job, step, external_id)

    async def finish_step(
        self,
        claim: Lease,
        step: Step,
        *,
        state: str,
        usage: Usage,
        result: dict[str, Any] | None = None,
        in_doubt: bool = False,
    ) -> None:
        """Save a step's answer (`state` DONE) or its failure, and what it cost, or that nobody knows (`in_doubt`)."""
        await self._persist(
            claim,
            "finish_step",
            claim.job,
            step,
            state,
            result,
            usage.input_tokens,
            usage.output_tokens,
            usage.images,
            usage.cost_nanousd,
            claim.attempt,
            in_doubt,
        )

    async def complete_job(self, claim: Lease, post: BlogPost) -> AttemptEnd:
        """Post and DONE together, or `LeaseLostError` and neither."""
        return await retry_while_unavailable(lambda: self._complete(claim, post), **_log_fields(claim))

    async def fail_job(self, claim: Lease, *, code: str, reason: str) -> AttemptEnd:
        return await self._end(claim, Status.FAILED, code=code, reason=reason)

    async def requeue_job(
        self, claim: Lease, *, delay_s: float, reason: str, blameless: bool = False
    ) -> AttemptEnd:
        """Return the job to the queue, not to be forwarded before `delay_s` seconds have passed."""
        return await self._end(
            claim, Status.PENDING, code="retry", reason=reason, delay_s=delay_s, blameless=blameless
        )

    async def _persist(self, claim: Lease, query: str, *arguments: Any) -> asyncpg.Record | None:
        return await retry_while_unavailable(
            lambda: self._pool.fetchrow(_QUERIES[query], *arguments), **_log_fields(claim)
        )

    async def _end(self, claim: Lease, status: Status, **why: Any) -> AttemptEnd:
        return await retry_while_unavailable(
            lambda: _end_attempt(self._pool, claim, status, **why), **_log_fields(claim)
        )

    async def _complete(self, claim: Lease, post: BlogPost) -> AttemptEnd:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_QUERIES["finish_assembly"], claim.job, claim.attempt)
            await connection.execute(
                _QUERIES["save_post"],
                claim.job,
                post.title,
                post.slug,
                post.meta_description,
                post.html,
                post.image_url,
            )
            return await _end_attempt(connection, claim, Status.DONE)


def _log_fields(claim: Lease) -> dict[str, str]:
    return {"job": str(claim.job), "store": claim.request.store}


async def _end_attempt(
    database: Any,
    claim: Lease,
    status: Status,
    *,
    code: str | None = None,
    reason: str | None = None,
    delay_s: float = 0.0,
    blameless: bool = False,
) -> AttemptEnd:
    row = await database.fetchrow(
        _QUERIES["end_attempt"],
        claim.job,
        claim.attempt,
        claim.worker,
        status,
        code,
        reason,
        delay_s,
        blameless,
    )
    if row is None:
        raise LeaseLostError(f"job {claim.job}, attempt {claim.attempt}")
    usage = Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        images=row["images"],
        cost_nanousd=row["cost_nanousd"],
        in_doubt=row["in_doubt"],
    )
    return AttemptEnd(usage=usage, at=row["at"], not_before=row["not_before"])
