"""What generator says of a job on blog.results."""

from datetime import UTC, datetime

from services.generator.jobs.repository import Lease, AttemptEnd
from shared.domain.job import Status, Step
from shared.domain.messages import EventKind, JobEvent, Usage


def event_of(
    claim: Lease,
    kind: EventKind,
    status: Status,
    *,
    step: Step | None = None,
    ended: AttemptEnd | None = None,
    error: str | None = None,
) -> JobEvent:
    """What has become true of a claimed job."""
    return JobEvent(
        job=claim.job,
        store=claim.request.store,
        kind=kind,
        status=status,
        attempt=claim.attempt,
        at=ended.at if ended else datetime.now(UTC),
        created_at=claim.created_at,
        started_at=claim.started_at,
        step=step,
        worker=claim.worker,
        usage=ended.usage if ended else Usage(),
        not_before=ended.not_before if ended else None,
        error=error,
    )
