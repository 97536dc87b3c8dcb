"""What the scheduler tells the traces of its jobs, where spans are recorded; elsewhere it costs a batch nothing."""

from collections.abc import Sequence
from uuid import UUID

from services.scheduler.repository import Row
from shared.domain.messages import BlogRequested
from shared.observability import tracing


def record_admission_spans(requests: Sequence[BlogRequested], *, began_ns: int) -> None:
    """Requests became rows, from then (`time_ns`) until now."""
    if not tracing.is_recording():
        return
    for request in requests:
        about = tracing.job_attributes(request.id, request.store)
        tracing.record_span(
            "admit", began_ns=began_ns, parent=request.traceparent, attributes=about
        )


def record_dispatch_spans(jobs: Sequence[tuple[UUID, str, int, Row]], *, began_ns: int) -> list[str | None]:
    """Jobs (with store, partition and row) wait no longer, and were forwarded from then until now: for each, the trace
    context for who does it."""
    if not tracing.is_recording():
        return [row["traceparent"] for *_, row in jobs]
    return [_forwarded(*job, began_ns=began_ns) for job in jobs]


def _forwarded(job: UUID, store: str, partition: int, row: Row, *, began_ns: int) -> str | None:
    parent, about = (
        row["traceparent"],
        tracing.job_attributes(job, store) | {"partition": partition},
    )
    tracing.record_span(
        "wait", began_ns=int(row["waiting_since"] * 1e9), parent=parent, attributes=about
    )
    return tracing.record_span(
        "forward", began_ns=began_ns, parent=parent, kind=tracing.PRODUCER, attributes=about
    )
