"""Trace spans of admission and dispatch. Without a trace exporter they cost nothing per job."""

from collections.abc import Sequence
from uuid import UUID

from services.scheduler.fair_queue.queue import PickedJob
from services.scheduler.repository import Row
from shared.domain.messages import BlogRequested
from shared.observability import tracing


def record_admission_spans(requests: Sequence[BlogRequested], *, began_ns: int) -> None:
    """Record the insertion of these requests, from `began_ns` (`time_ns`) until now."""
    if not tracing.is_recording():
        return
    for request in requests:
        attributes = tracing.job_attributes(request.id, request.store)
        tracing.record_span(
            "admit", began_ns=began_ns, parent=request.traceparent, attributes=attributes
        )


def record_dispatch_spans(
    jobs: Sequence[tuple[UUID, PickedJob, int, Row]], *, began_ns: int
) -> list[str | None]:
    """Record the end of the wait and the dispatch of jobs (id, pick, partition, row).

    Returns for each job the trace context to send to the worker.
    """
    if not tracing.is_recording():
        return [row["traceparent"] for *_, row in jobs]
    return [_record_job_spans(*job, began_ns=began_ns) for job in jobs]


def _record_job_spans(
    job: UUID, pick: PickedJob, partition: int, row: Row, *, began_ns: int
) -> str | None:
    parent = row["traceparent"]
    attributes = tracing.job_attributes(job, pick.store) | {"partition": partition}
    tracing.record_span(
        "wait", began_ns=int(row["waiting_since"] * 1e9), parent=parent, attributes=attributes
    )
    return tracing.record_span(
        "forward", began_ns=began_ns, parent=parent, kind=tracing.PRODUCER, attributes=attributes
    )
