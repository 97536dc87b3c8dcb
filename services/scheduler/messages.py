"""Requests, rows and reports as the order and the credit know them; what the scheduler says, as messages."""

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from services.scheduler.admission.rules import AdmissionDecision
from services.scheduler.dispatch.rules import WorkerOffer
from services.scheduler.fair_queue.accounts import WaitingJob
from services.scheduler.fair_queue.fairness import FairnessStats
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import Row
from shared.domain.budget import BudgetState
from shared.domain.job import Status
from shared.domain.job_events import event_from_row
from shared.domain.messages import (
    AdmissionState,
    BlogRequested,
    EventKind,
    FairnessWindow,
    GenerationTask,
    JobEvent,
    SchedulerReport,
    StoreQueueReport,
    Usage,
    WorkerReport,
)
from shared.kafka.publisher import Outgoing
from shared.kafka.topics import CONTROL, GENERATION, RESULTS, WORKERS

_STORES_REPORTED = 200
_LIMITS = {
    ("openai", "requests"): "RPM",
    ("openai", "tokens"): "TPM",
    ("replicate", "requests"): "image budget",
}


def waiting_job_from_request(request: BlogRequested) -> WaitingJob:
    return WaitingJob.of(
        job=request.id,
        store=request.store,
        created_at=request.created_at.timestamp(),
        priority=request.priority,
        not_before=request.run_at.timestamp() if request.run_at else 0,
    )


def waiting_job_from_row(row: Row) -> WaitingJob:
    return WaitingJob.of(
        job=row["id"],
        store=row["store"],
        created_at=row["created_at"],
        priority=row["priority"],
        not_before=row["not_before"] or 0.0,
    )


def worker_offer(report: WorkerReport, now: float) -> WorkerOffer:
    """A clock that is ahead must not keep a dead worker alive, nor a partition that there is not get a job."""
    partitions = tuple(
        sorted(
            partition for partition in report.partitions if 0 <= partition < GENERATION.partitions
        )
    )
    return WorkerOffer(
        worker=report.worker,
        partitions=partitions,
        slots=0 if report.draining else report.slots,
        at=min(report.at.timestamp(), now),
        limited_by=_limited_by(report, now),
    )


def _limited_by(report: WorkerReport, now: float) -> str | None:
    """What a worker's calls wait for: money, then a provider that cools down, and of limits the scarcest."""
    if any(state.circuit_open for state in report.limiters):
        return "provider unavailable"
    if any(
        state.cooling_until is not None and state.cooling_until.timestamp() > now
        for state in report.limiters
    ):
        return "provider cooling down"
    waiting = [state for state in report.limiters if state.queued and state.share > 0]
    scarcest = min(waiting, key=lambda state: state.level / state.share, default=None)
    return _LIMITS.get((scarcest.provider, scarcest.resource)) if scarcest is not None else None


def admitted_event(request: BlogRequested, *, at: datetime) -> Outgoing:
    """`at` is not after the row could be seen: whatever happens to the job is later."""
    event = JobEvent(
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
    return Outgoing(topic=RESULTS, key=request.store, message=event)


def task_message(
    job: UUID,
    store: str,
    partition: int,
    *,
    forward: int,
    epoch: int,
    at: datetime,
    traceparent: str | None,
) -> Outgoing:
    message = GenerationTask(
        job=job, store=store, forward=forward, epoch=epoch, forwarded_at=at, traceparent=traceparent
    )
    return Outgoing(topic=GENERATION, key=str(job), partition=partition, message=message)


def expired_lease_event(row: Row) -> Outgoing:
    """Said in the worker's stead, which is gone: the attempt has failed, the job waits again."""
    usage = Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        images=row["images"],
        cost_nanousd=row["cost_nanousd"],
    )
    event = JobEvent(
        job=row["id"],
        store=row["store"],
        kind=EventKind.RETRY,
        status=Status.PENDING,
        attempt=row["attempt"],
        at=datetime.now(UTC),
        created_at=row["created_at"],
        started_at=row["started_at"],
        worker=row["worker"],
        usage=usage,
        error="the worker's lease ran out",
    )
    return Outgoing(topic=RESULTS, key=row["store"], message=event)


def current_state_event(row: Row) -> Outgoing:
    """What a job's row says, for whoever has not heard it."""
    return Outgoing(
        topic=RESULTS, key=row["store"], message=event_from_row(row, since=row.get("intervened_at"))
    )


def admission_message(door: AdmissionDecision) -> Outgoing:
    """An open door is a tombstone: there is nothing to remember of it."""
    if not door.closed:
        return Outgoing(topic=CONTROL, key=door.store, message=None)
    at, resets_at = datetime.now(UTC), None
    retry_after_s = door.retry_after_s
    if door.resets_at is not None:
        resets_at = datetime.fromtimestamp(door.resets_at, UTC)
        retry_after_s = max((resets_at - at).total_seconds(), 1.0)
    message = AdmissionState(
        store=door.store,
        closed=True,
        reason=door.reason,
        retry_after_s=round(retry_after_s, 1),
        at=at,
        resets_at=resets_at,
    )
    return Outgoing(topic=CONTROL, key=door.store, message=message)


def decision_from_message(store: str, said: AdmissionState) -> AdmissionDecision:
    """A door that a predecessor has closed."""
    if said.resets_at is None:
        return AdmissionDecision(store=store, closed=True, retry_after_s=said.retry_after_s)
    return AdmissionDecision(store=store, closed=True, resets_at=said.resets_at.timestamp())


def scheduler_report(
    name: str,
    epoch: int,
    order: FairQueue,
    *,
    closed_stores: int,
    fairness: FairnessStats | None,
    drifted: int,
    budgets: Mapping[str, BudgetState],
) -> Outgoing:
    worth_telling = {store for store, state in budgets.items() if state is not BudgetState.OK}
    queues = sorted(order.queues(worth_telling), key=lambda queue: -queue[1])
    at = datetime.now(UTC)
    due, oldest = order.due(at.timestamp())
    message = SchedulerReport(
        scheduler=name,
        at=at,
        epoch=epoch,
        pending=order.pending,
        in_flight=order.in_flight,
        oldest_pending_at=datetime.fromtimestamp(oldest, UTC) if oldest is not None else None,
        stores_waiting=sum(waiting > 0 for _, waiting, _, _, _ in queues),
        stores=tuple(
            StoreQueueReport(
                store=store,
                queued=waiting,
                in_flight=flying,
                served_nanousd=served,
                weight=weight,
                budget=budgets.get(store),
            )
            for store, waiting, flying, served, weight in queues[:_STORES_REPORTED]
        ),
        closed_stores=closed_stores,
        fairness=_window(fairness) if fairness is not None else None,
        delayed=order.pending - due,
        drifted=drifted,
        stores_warned=sum(state is BudgetState.WARNING for state in budgets.values()),
        stores_stopped=sum(state is BudgetState.STOPPED for state in budgets.values()),
    )
    return Outgoing(topic=WORKERS, key=name, message=message)


def _window(fairness: FairnessStats) -> FairnessWindow:
    return FairnessWindow(
        began_at=datetime.fromtimestamp(fairness.began_at, UTC),
        seconds=round(fairness.seconds, 1),
        contenders=fairness.contenders,
        jain=round(fairness.jain, 4),
        largest_gap_nanousd=round(fairness.largest_gap),
        light_stores=fairness.light_stores,
        light_slowdown=None
        if fairness.light_slowdown is None
        else round(fairness.light_slowdown, 3),
    )
