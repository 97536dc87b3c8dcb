"""What the scheduler tells the traces of its jobs, where spans are recorded; elsewhere it costs a batch nothing."""

from collections.abc import Sequence
from uuid import UUID

from services.scheduler.store import Row
from shared import tracing
from shared.messages import BlogRequested


def admitted(requests: Sequence[BlogRequested], *, began_ns: int) -> None:
    """Requests became rows, from then (`time_ns`) until now."""
    if not tracing.records():
        return
    for request in requests:
        about = tracing.of_job(request.id, request.store)
        tracing.past("admit", began_ns=began_ns, parent=request.traceparent, attributes=about)


def forwarded(jobs: Sequence[tuple[UUID, str, int, Row]], *, began_ns: int) -> list[str | None]:
    """Jobs (with store, partition and row) wait no longer, and were forwarded from then until now: for each, the trace
    context for who does it."""
    if not tracing.records():
        return [row["traceparent"] for *_, row in jobs]
    return [_forwarded(*job, began_ns=began_ns) for job in jobs]


def _forwarded(job: UUID, store: str, partition: int, row: Row, *, began_ns: int) -> str | None:
    parent, about = row["traceparent"], tracing.of_job(job, store) | {"partition": partition}
    tracing.past("wait", began_ns=int(row["waiting_since"] * 1e9), parent=parent, attributes=about)
    return tracing.past("forward", began_ns=began_ns, parent=parent, kind=tracing.PRODUCER, attributes=about)
