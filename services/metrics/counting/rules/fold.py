"""Folds a job's events into a shard; repeated and late events change nothing.

The shard keeps the last state of every unfinished job and of the latest ended ones. A job's
position only grows. An event adds the difference between the job's new state and its old one, so
counts and costs are exact however often an event is delivered. All forgotten jobs ended before a
known time: an event of an unknown job before that time is a repeat. A retry of a forgotten job
names its previous outcome, so that the outcome can be taken back.
"""

from operator import attrgetter, gt, sub
from typing import Any

from services.metrics.counting.rules import aggregate
from services.metrics.counting.rules.aggregate import BILLED, StatsChange
from shared.domain.job import ENDED, Status
from shared.domain.messages import EventKind, JobEvent

_STAGES = {
    EventKind.ADMITTED: 0,
    EventKind.STARTED: 1,
    EventKind.STEP_DONE: 2,
    EventKind.RETRY: 3,
    EventKind.ENDED: 4,
}
_RETRY_REQUESTED = 5
"""The stage of an ended job after a retry request: it waits, still with the old attempt number."""

_SHARDS = 16
_DONE_KEPT = 16
_OTHERS_KEPT = 64
"""Failed and cancelled jobs kept in a shard, because they can be retried."""

_billed_usage = attrgetter(*BILLED)

JobState = list[Any]
"""[attempt, stage, time, status, whether the wait is counted, then the billed amounts]."""
Shard = dict[str, Any]


def shard_key(event: JobEvent) -> str:
    """Return the key of the job's shard.

    Several shards a store keep the value written for an event small.
    """
    return f"{event.store}|{event.job.int % _SHARDS}"


def store_of(key: str) -> str:
    return key.rpartition("|")[0]


def empty_shard() -> Shard:
    return {"jobs": {}, "gone": 0.0, "aggregate": aggregate.empty()}


def fold_event(event: JobEvent, shard: Shard) -> StatsChange | None:
    """Fold an event into its shard.

    Returns the difference, or `None` for a repeated or late event.
    """
    job, jobs = str(event.job), shard["jobs"]
    since = shard.setdefault("since", event.at.timestamp())
    known = jobs.get(job) or _restore_forgotten(event, since=since, forgotten_until=shard["gone"])
    stage = _next_stage(event, known) if known is not None else _first_stage(event, shard["gone"])
    if stage is None:
        return None
    jobs.pop(job, None)  # makes it the last in the order
    change, jobs[job] = _advance(event, stage, known)
    aggregate.add_change(shard["aggregate"], change)
    if event.status in ENDED:
        _forget_old_jobs(shard)
    return change


def _restore_forgotten(event: JobEvent, *, since: float, forgotten_until: float) -> JobState | None:
    """Return a forgotten job's last state, as its retry event describes it.

    Returns `None` when the shard never counted that outcome (it is older than the shard) or the
    event is a repeat.
    """
    former = event.former
    if (
        former is None
        or not since <= former.at.timestamp() <= forgotten_until < event.at.timestamp()
    ):
        return None
    stage, at = _STAGES[EventKind.ENDED], former.at.timestamp()
    return [
        event.attempt - 1,
        stage,
        at,
        former.status.value,
        former.begun,
        *_billed_usage(event.usage),
    ]


def _first_stage(event: JobEvent, forgotten_until: float) -> int | None:
    return _STAGES[event.kind] if event.at.timestamp() > forgotten_until else None


def _next_stage(event: JobEvent, known: JobState) -> int | None:
    """Return the job's stage after the event, or `None` when the event does not advance it.

    Within one attempt a job can be cancelled and retried several times; then the event's time
    decides.
    """
    attempt, stage, at = known[:3]
    stage_of_event = _STAGES[event.kind]
    if event.attempt != attempt:
        return stage_of_event if event.attempt > attempt else None
    later = event.at.timestamp() > at
    if stage == _STAGES[EventKind.ENDED]:
        if _costs_more(event, known):
            return _STAGES[EventKind.ENDED]
        return _RETRY_REQUESTED if event.status is Status.PENDING and later else None
    if stage == _RETRY_REQUESTED:
        return stage_of_event if event.kind is EventKind.ENDED and later else None
    if event.kind is EventKind.STEP_DONE and stage == _STAGES[EventKind.STARTED]:
        return None  # the job is known to run; most events are of this kind and need no write
    return stage_of_event if stage_of_event > stage else None


def _costs_more(event: JobEvent, known: JobState) -> bool:
    """Return whether the event is the known end with the cost of a last call added."""
    status, billed = known[3], known[5:]
    return event.status.value == status and any(map(gt, _billed_usage(event.usage), billed))


def _advance(event: JobEvent, stage: int, known: JobState | None) -> tuple[StatsChange, JobState]:
    before: JobState = known[3:] if known is not None else [None, False, *[0] * len(BILLED)]
    old_status, wait_counted, *billed = before
    now_billed = list(map(max, billed, _billed_usage(event.usage)))
    wait_s = run_s = None
    if event.started_at is not None and not wait_counted:
        wait_s = max((event.started_at - event.created_at).total_seconds(), 0)
    if (
        event.started_at is not None
        and event.kind is EventKind.ENDED
        and old_status != event.status.value
    ):
        run_s = max((event.at - event.started_at).total_seconds(), 0)
    change = StatsChange(
        old_status=old_status,
        new_status=event.status.value,
        billed=list(map(sub, now_billed, billed)),
        minute=int(event.at.timestamp() // 60),
        cohort=int(event.created_at.timestamp() // 3600),
        wait_s=wait_s,
        run_s=run_s,
    )
    return change, [
        event.attempt,
        stage,
        event.at.timestamp(),
        event.status.value,
        wait_counted or wait_s is not None,
        *now_billed,
    ]


def _forget_old_jobs(shard: Shard) -> None:
    """Keep all unfinished jobs and the latest ended ones."""
    jobs: dict[str, JobState] = shard["jobs"]
    done = [job for job, known in jobs.items() if known[3] == Status.DONE]
    others = [job for job, known in jobs.items() if known[3] in ENDED and known[3] != Status.DONE]
    for job in [*done[:-_DONE_KEPT], *others[:-_OTHERS_KEPT]]:
        shard["gone"] = max(shard["gone"], jobs.pop(job)[2])
