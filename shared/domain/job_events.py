"""Builds job events from database rows and requests: one builder for every service."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg

from shared.domain.job import ENDED, Status
from shared.domain.messages import BlogRequested, EventKind, JobEvent, PreviousOutcome, Usage

JobRow: TypeAlias = "Mapping[str, Any] | asyncpg.Record"

_KINDS = {Status.PENDING: EventKind.ADMITTED, Status.PROCESSING: EventKind.STARTED}


def usage_from_row(row: JobRow) -> Usage:
    """The usage columns of a row. A row without `in_doubt` has no calls in doubt."""
    return Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        images=row["images"],
        cost_nanousd=row["cost_nanousd"],
        in_doubt=row.get("in_doubt", 0),
        reasoning_tokens=row["reasoning_tokens"],
    )


def event_from_row(
    row: JobRow,
    *,
    kind: EventKind | None = None,
    status: Status | None = None,
    at: datetime | None = None,
    since: datetime | None = None,
    error: str | None = None,
    former: PreviousOutcome | None = None,
) -> JobEvent:
    """Build the event that a row of `blog_generations` describes.

    The row has `id`, `store` or `instance_id`, `attempt`, `worker`, `created_at`, `started_at` and
    the usage columns; `status`, `finished_at`, `not_before` and `error` where the query returns
    them.

    Without further arguments the event has the id and the time of the original event, so a reader
    that knows the original takes nothing from it but a higher bill. `kind`, `status`, `at` and
    `error` override the row. `since` is the time at which an unfinished job reached its status;
    default: now.
    """
    status = status or Status(row["status"])
    return JobEvent(
        job=row["id"],
        store=row.get("store") or row["instance_id"],
        kind=kind or (EventKind.ENDED if status in ENDED else _KINDS[status]),
        status=status,
        attempt=row["attempt"],
        at=at or row.get("finished_at") or since or datetime.now(UTC),
        created_at=row["created_at"],
        started_at=row["started_at"],
        worker=row["worker"],
        error=error or row.get("error"),
        not_before=row.get("not_before"),
        usage=usage_from_row(row),
        former=former,
    )


def event_from_request(request: BlogRequested, *, at: datetime) -> JobEvent:
    """Build the ADMITTED event of a new job.

    `at` is not after the moment at which others could read the row: later events have later times.
    """
    return JobEvent(
        job=request.id,
        store=request.store,
        kind=EventKind.ADMITTED,
        status=Status.PENDING,
        attempt=0,
        at=at,
        created_at=request.created_at,
        not_before=request.run_at,
        traceparent=request.traceparent,
    )
