"""What a job's row says, as an event: for whoever tells it again, or later than the one that made it true."""

from datetime import UTC, datetime

import asyncpg

from shared.domain.job import ENDED, Status
from shared.domain.messages import EventKind, JobEvent, Usage

_KINDS = {Status.PENDING: EventKind.ADMITTED, Status.PROCESSING: EventKind.STARTED}


def event_from_row(row: asyncpg.Record, *, since: datetime | None = None) -> JobEvent:
    """The event of a row of blog_generations (with `instance_id` as store, and its steps' `in_doubt`), with the id and
    the time that it had, or would have had, when it happened: who knows it learns nothing but a higher bill. `since`
    is when a job that goes on became what it is; now, when that is not known."""
    status = Status(row["status"])
    return JobEvent(
        job=row["id"],
        store=row["store"],
        kind=EventKind.ENDED if status in ENDED else _KINDS[status],
        status=status,
        attempt=row["attempt"],
        at=row["finished_at"] or since or datetime.now(UTC),
        created_at=row["created_at"],
        started_at=row["started_at"],
        worker=row["worker"],
        error=row["error"],
        not_before=row["not_before"],
        usage=Usage(
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            images=row["images"],
            cost_nanousd=row["cost_nanousd"],
            in_doubt=row["in_doubt"],
        ),
    )
