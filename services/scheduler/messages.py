"""Conversions between the scheduler's types and messages."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from uuid import UUID

from services.scheduler.admission.rules import AdmissionDecision
from services.scheduler.dispatch.rules import WorkerOffer
from services.scheduler.fair_queue.accounts import WaitingJob
from services.scheduler.fair_queue.fairness import FairnessStats
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import Row
from shared.domain.budget import BudgetState
from shared.domain.job import Status
from shared.domain.job_events import event_from_request, event_from_row
from shared.domain.messages import (
    LONG_COOL_DOWN_S,
    AdmissionState,
    BlogRequested,
    EventKind,
    FairnessWindow,
    GenerationTask,
    LimiterReport,
    Need,
    SchedulerReport,
    StoreQueueReport,
    WorkerReport,
)
from shared.domain.reasons import WaitReason
from shared.kafka.publisher import OutgoingMessage
from shared.kafka.topics import CONTROL, GENERATION, RESULTS, WORKERS

_REPORTED_STORES = 200
_LIMIT_NAMES = {
    (Need.TEXT, "requests"): WaitReason.REQUESTS,
    (Need.TEXT, "tokens"): WaitReason.TOKENS,
    (Need.IMAGES, "requests"): WaitReason.IMAGES,
    (Need.IMAGES, "reads"): WaitReason.IMAGES,
}


def waiting_job_from_request(request: BlogRequested) -> WaitingJob:
    return WaitingJob.create(
        job=request.id,
        store=request.store,
        created_at=request.created_at.timestamp(),
        priority=request.priority,
        not_before=request.run_at.timestamp() if request.run_at else 0,
        needs_images=request.images > 0,
    )


def waiting_job_from_row(row: Row) -> WaitingJob:
    return WaitingJob.create(
        job=row["id"],
        store=row["store"],
        created_at=row["created_at"],
        priority=row["priority"],
        not_before=row["not_before"] or 0.0,
        needs_images=row["needs_images"],
    )


def worker_offer(report: WorkerReport, now: float, *, partitions: int) -> WorkerOffer:
    """Convert a report, ignoring unknown partitions and clocks ahead of `now`.

    `partitions` is the number that tasks can be sent to. A clock that is ahead would keep a dead
    worker's offer fresh.
    """
    owned = frozenset(partition for partition in report.partitions if 0 <= partition < partitions)
    return WorkerOffer(
        worker=report.worker,
        partitions=tuple(sorted(owned)),
        text_partitions=_carrying_partitions(report, owned, {Need.TEXT}),
        image_partitions=_carrying_partitions(report, owned, {Need.TEXT, Need.IMAGES}),
        most_image_jobs=_most_image_jobs(report, now),
        images_stopped_by=_stopped_by(_owned_accounts(report, Need.IMAGES), now),
        slots=0 if report.draining else report.slots,
        at=min(report.at.timestamp(), now),
        limited_by=_limiting_cause(report, now),
        overtaking_slots=report.overtaking_slots,
        jobs_per_s=report.jobs_per_s,
        lowest_waiting_rank=(
            -inf if report.lowest_waiting_rank is None else report.lowest_waiting_rank
        ),
    )


def _carrying_partitions(
    report: WorkerReport, owned: frozenset[int], needs: Collection[Need]
) -> tuple[int, ...]:
    """Return the owned partitions where each need has an account that carries all its limits."""
    carrying = owned
    for need in needs:
        if accounts := _accounts_of(report, need):
            carrying &= frozenset().union(*(_carried_by(limiters, owned) for limiters in accounts))
    return tuple(sorted(carrying))


def _accounts_of(report: WorkerReport, need: Need) -> list[list[LimiterReport]]:
    """Return the limiters that serve a need, by provider account."""
    accounts = defaultdict[str, list[LimiterReport]](list)
    for limiter in report.limiters:
        if limiter.need is need:
            accounts[limiter.provider].append(limiter)
    return list(accounts.values())


def _carried_by(limiters: Sequence[LimiterReport], owned: frozenset[int]) -> frozenset[int]:
    """Return the owned partitions that carry all limits of one account."""
    for limiter in limiters:
        if limiter.partitions is not None:
            owned = owned.intersection(limiter.partitions)
    return owned


def _owned_accounts(report: WorkerReport, need: Need) -> list[list[LimiterReport]]:
    """Return the limiters that serve a need with quota of this worker, by provider account."""
    accounts = _accounts_of(report, need)
    return [
        limiters
        for limiters in accounts
        if all(limiter.partitions is None or limiter.partitions for limiter in limiters)
    ]


def _most_image_jobs(report: WorkerReport, now: float) -> int | None:
    """Return how many jobs that need an image the worker accepts; `None`: all its slots."""
    accounts = _owned_accounts(report, Need.IMAGES)
    if _stopped_by(accounts, now) is not None:
        return 1 if any(_is_probe_due(limiters, now) for limiters in accounts) else 0
    return report.image_slots


def _is_probe_due(limiters: Sequence[LimiterReport], now: float) -> bool:
    """Return whether the next call of an account may be the probe of its open circuit."""
    open_ones = [limiter for limiter in limiters if limiter.circuit_open]
    return (
        bool(open_ones)
        and all(limiter.probe_due for limiter in open_ones)
        and not _is_cooling(limiters, now, longer_than_s=LONG_COOL_DOWN_S)
    )


def _stopped_by(
    accounts: Sequence[Sequence[LimiterReport]],
    now: float,
    *,
    cool_down_s: float = LONG_COOL_DOWN_S,
) -> WaitReason | None:
    """Return why none of the accounts serves; `None` if one does, or without accounts.

    An account is stopped by an open circuit breaker, or by a cool-down of more than `cool_down_s`.
    """
    closed = [
        limiters for limiters in accounts if not any(limiter.circuit_open for limiter in limiters)
    ]
    if not accounts or not all(
        _is_cooling(limiters, now, longer_than_s=cool_down_s) for limiters in closed
    ):
        return None
    return WaitReason.COOLING_DOWN if closed else WaitReason.UNAVAILABLE


def _is_cooling(
    limiters: Sequence[LimiterReport], now: float, *, longer_than_s: float = 0.0
) -> bool:
    return any(limiter.is_cooling(now, longer_than_s=longer_than_s) for limiter in limiters)


def _limiting_cause(report: WorkerReport, now: float) -> str | None:
    """Return the cause a worker's calls wait for.

    Texts come first: open circuit breakers of all accounts, then their cool-downs. Then comes the
    scarcest rate limit that calls wait for, or the cool-down of its account. An account limits no
    jobs while another one of the same need serves without a wait. Stopped images limit no other
    jobs.
    """
    texts = _owned_accounts(report, Need.TEXT)
    if (stopped := _stopped_by(texts, now, cool_down_s=0.0)) is not None:
        return stopped
    waiting = [limiter for need in Need for limiter in _limiters_with_line(report, need, now)]
    if not waiting and _accepts_few(report):
        waiting = [limiter for limiters in texts for limiter in limiters if limiter.share > 0]
    scarcest = min(waiting, key=lambda limiter: limiter.level / limiter.share, default=None)
    if scarcest is None:
        return None
    if scarcest.is_cooling(now):
        return WaitReason.COOLING_DOWN
    return _LIMIT_NAMES.get((scarcest.need, scarcest.resource))


def _accepts_few(report: WorkerReport) -> bool:
    """Return whether scarce permits keep the worker from using all its slots."""
    return report.capacity is not None and 0 < report.slots < report.capacity


def _limiters_with_line(report: WorkerReport, need: Need, now: float) -> list[LimiterReport]:
    """Return the limiters that calls wait for, if calls wait at every account that serves."""
    serving = [
        limiters
        for limiters in _owned_accounts(report, need)
        if _stopped_by([limiters], now) is None
    ]
    lines = [
        [limiter for limiter in limiters if limiter.queued and limiter.share > 0]
        for limiters in serving
    ]
    return [limiter for line in lines for limiter in line] if all(lines) else []


def admitted_event(request: BlogRequested, *, at: datetime) -> OutgoingMessage:
    """`at` must not be later than the row became visible: later events of the job follow it."""
    event = event_from_request(request, at=at)
    return OutgoingMessage(topic=RESULTS, key=request.store, message=event)


def task_message(
    job: UUID,
    store: str,
    partition: int,
    *,
    permit_rank: float,
    dispatch_count: int,
    epoch: int,
    at: datetime,
    traceparent: str | None,
) -> OutgoingMessage:
    message = GenerationTask(
        job=job,
        store=store,
        forward=dispatch_count,
        epoch=epoch,
        forwarded_at=at,
        traceparent=traceparent,
        permit_rank=permit_rank,
    )
    return OutgoingMessage(topic=GENERATION, key=str(job), partition=partition, message=message)


def lost_job_event(row: Row, *, is_worker_dead: bool) -> OutgoingMessage:
    """Return the event of a lost job: the attempt failed and the job waits again."""
    return retry_event(
        row, error="the worker died" if is_worker_dead else "the worker's lease ran out"
    )


def retry_event(row: Row, *, error: str) -> OutgoingMessage:
    """Return the event of a job that waits again, with its saved usage."""
    event = event_from_row(
        row, kind=EventKind.RETRY, status=Status.PENDING, at=datetime.now(UTC), error=error
    )
    return OutgoingMessage(topic=RESULTS, key=row["store"], message=event)


def current_state_event(row: Row) -> OutgoingMessage:
    """Return the event of a job's current row, for readers that missed the original event."""
    event = event_from_row(row, since=row.get("intervened_at"))
    return OutgoingMessage(topic=RESULTS, key=row["store"], message=event)


def admission_message(decision: AdmissionDecision) -> OutgoingMessage:
    """Return the admission state's message. An open state is a tombstone."""
    if not decision.closed:
        return OutgoingMessage(topic=CONTROL, key=decision.store, message=None)
    at, resets_at = datetime.now(UTC), None
    retry_after_s = decision.retry_after_s
    if decision.resets_at is not None:
        resets_at = datetime.fromtimestamp(decision.resets_at, UTC)
        retry_after_s = max((resets_at - at).total_seconds(), 1.0)
    message = AdmissionState(
        store=decision.store,
        closed=True,
        reason=decision.reason,
        retry_after_s=round(retry_after_s, 1),
        at=at,
        resets_at=resets_at,
    )
    return OutgoingMessage(topic=CONTROL, key=decision.store, message=message)


def decision_from_message(store: str, state: AdmissionState) -> AdmissionDecision:
    """Convert a closed state that a previous leader published."""
    if state.resets_at is None:
        return AdmissionDecision(store=store, closed=True, retry_after_s=state.retry_after_s)
    return AdmissionDecision(store=store, closed=True, resets_at=state.resets_at.timestamp())


def scheduler_report(
    name: str,
    epoch: int,
    queue: FairQueue,
    *,
    closed_stores: int,
    fairness: FairnessStats | None,
    repaired: int,
    budgets: Mapping[str, BudgetState],
) -> OutgoingMessage:
    low_budgets = {store for store, state in budgets.items() if state is not BudgetState.OK}
    stores = sorted(queue.summarize_stores(low_budgets), key=lambda summary: -summary.waiting)
    at = datetime.now(UTC)
    due, oldest = queue.summarize_due_jobs(at.timestamp())
    message = SchedulerReport(
        scheduler=name,
        at=at,
        epoch=epoch,
        pending=queue.pending,
        in_flight=queue.in_flight,
        oldest_pending_at=datetime.fromtimestamp(oldest, UTC) if oldest is not None else None,
        stores_waiting=sum(summary.waiting > 0 for summary in stores),
        stores=tuple(
            StoreQueueReport(
                store=summary.store,
                queued=summary.waiting,
                in_flight=summary.in_flight,
                served_nanousd=summary.served,
                weight=summary.weight,
                budget=budgets.get(summary.store),
            )
            for summary in stores[:_REPORTED_STORES]
        ),
        closed_stores=closed_stores,
        fairness=_fairness_window(fairness) if fairness is not None else None,
        delayed=queue.pending - due,
        drifted=repaired,
        stores_warned=sum(state is BudgetState.WARNING for state in budgets.values()),
        stores_stopped=sum(state is BudgetState.STOPPED for state in budgets.values()),
    )
    return OutgoingMessage(topic=WORKERS, key=name, message=message)


def _fairness_window(stats: FairnessStats) -> FairnessWindow:
    slowdown = stats.light_slowdown
    return FairnessWindow(
        began_at=datetime.fromtimestamp(stats.began_at, UTC),
        seconds=round(stats.seconds, 1),
        contenders=stats.contenders,
        jain=round(stats.jain, 4),
        largest_gap_nanousd=round(stats.largest_gap),
        light_stores=stats.light_stores,
        light_slowdown=None if slowdown is None else round(slowdown, 3),
    )
