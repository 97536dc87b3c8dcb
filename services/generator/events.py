"""What generator says of a job on blog.results."""

from datetime import UTC, datetime

import asyncpg

from services.generator.store import Claim, Ended
from shared.job import Status, Step
from shared.messages import EventKind, GenerationTask, JobEvent, Usage


def event_of(
    claim: Claim, kind: EventKind, status: Status, *, step: Step | None = None, ended: Ended | None = None,
    error: str | None = None,
) -> JobEvent:  # fmt: skip
    """What has become true of a claimed job."""
    return JobEvent(
        job=claim.job, store=claim.request.store, kind=kind, status=status, attempt=claim.attempt,
        at=ended.at if ended else datetime.now(UTC), created_at=claim.created_at, started_at=claim.started_at,
        step=step, worker=claim.worker, usage=ended.usage if ended else Usage(),
        not_before=ended.not_before if ended else None, error=error,
    )  # fmt: skip


def outcome_again(task: GenerationTask, row: asyncpg.Record) -> JobEvent:
    """The event of a job that has ended already, with the id that it had the first time."""
    return JobEvent(
        job=task.job, store=row["store"], kind=EventKind.ENDED, status=Status(row["status"]), attempt=row["attempt"],
        at=row["finished_at"] or datetime.now(UTC), created_at=row["created_at"], started_at=row["started_at"],
        worker=row["worker"], error=row["error"],
        usage=Usage(
            input_tokens=row["input_tokens"], output_tokens=row["output_tokens"], images=row["images"],
            cost_nanousd=row["cost_nanousd"], in_doubt=row["in_doubt"],
        ),
    )  # fmt: skip
