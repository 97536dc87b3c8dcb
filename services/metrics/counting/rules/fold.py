"""Folds a job's events into a shard, so that an event heard twice, or late, changes nothing.

For every job that goes on, and for the latest that ended, the last state is kept: its position only ever grows. What
an event adds is the difference between the job's new state and the one before, so counts and bills are exact however
often it comes. Of jobs that were forgotten, all happened before a known time: what is unknown and older is a repeat.
Who asks for one of them again says how it had ended, so that this is taken back.
"""

from operator import attrgetter, gt, sub
from typing import Any

from services.metrics.counting.rules import aggregate
from services.metrics.counting.rules.aggregate import BILLED, Change
from shared.domain.job import ENDED, Status
from shared.domain.messages import EventKind, JobEvent

_STAGES = {
    EventKind.ADMITTED: 0,
    EventKind.STARTED: 1,
    EventKind.STEP_DONE: 2,
    EventKind.RETRY: 3,
    EventKind.ENDED: 4,
}
_ASKED_AGAIN = 5
"""An ended job that somebody has asked for again: it waits, and its attempt's number is still the old one."""

_SHARDS = 16
_DONE_KEPT = 16
_OTHERS_KEPT = 64
"""Failed and cancelled jobs of a shard: they may be asked for again."""

_usage_of = attrgetter(*BILLED)

JobState = list[Any]
"""[attempt, stage, at, status, whether the wait was counted, then what was billed]."""
Shard = dict[str, Any]


def shard_key(event: JobEvent) -> str:
    """A store's jobs are spread over shards, so that an event rewrites little, however many jobs the store has."""
    return f"{event.store}|{event.job.int % _SHARDS}"


def store_of(key: str) -> str:
    return key.rpartition("|")[0]


def empty_shard() -> Shard:
    return {"jobs": {}, "gone": 0.0, "aggregate": aggregate.empty()}


def fold_event(event: JobEvent, shard: Shard) -> Change | None:
    """Fold an event into its shard: what it adds, or None when it says nothing new."""
    job, jobs = str(event.job), shard["jobs"]
    since = shard.setdefault("since", event.at.timestamp())
    seen = jobs.get(job) or _forgotten(event, since=since, gone=shard["gone"])
    stage = _stage(event, seen) if seen is not None else _first_stage(event, shard["gone"])
    if stage is None:
        return None
    jobs.pop(job, None)  # it comes last from now on
    change, jobs[job] = _change(event, stage, seen)
    aggregate.add_change(shard["aggregate"], change)
    if event.status in ENDED:
        _forget(shard)
    return change


def _forgotten(event: JobEvent, *, since: float, gone: float) -> JobState | None:
    """What was kept of an ended job before it was forgotten, as the event tells that asks for it again. None when its
    end was not heard here (it is older than all that was), or the event itself is a repeat."""
    former = event.former
    if former is None or not since <= former.at.timestamp() <= gone < event.at.timestamp():
        return None
    stage, at = _STAGES[EventKind.ENDED], former.at.timestamp()
    return [
        event.attempt - 1,
        stage,
        at,
        former.status.value,
        former.begun,
        *_usage_of(event.usage),
    ]


def _first_stage(event: JobEvent, gone: float) -> int | None:
    return _STAGES[event.kind] if event.at.timestamp() > gone else None


def _stage(event: JobEvent, seen: JobState) -> int | None:
    """How far the event brings its job; None when that is no further than where it is. Within one attempt a job may be
    cancelled and asked for again, more than once: there, time decides."""
    attempt, stage, at = seen[:3]
    wanted = _STAGES[event.kind]
    if event.attempt != attempt:
        return wanted if event.attempt > attempt else None
    later = event.at.timestamp() > at
    if stage == _STAGES[EventKind.ENDED]:
        if _bills_more(event, seen):
            return _STAGES[EventKind.ENDED]
        return _ASKED_AGAIN if event.status is Status.PENDING and later else None
    if stage == _ASKED_AGAIN:
        return wanted if event.kind is EventKind.ENDED and later else None
    if event.kind is EventKind.STEP_DONE and stage == _STAGES[EventKind.STARTED]:
        return None  # it runs, as is known: most events are of this kind, and need no write
    return wanted if wanted > stage else None


def _bills_more(event: JobEvent, seen: JobState) -> bool:
    """Whether it is the end that is known, told again with what the last call of a cancelled job has cost."""
    known, billed = seen[3], seen[5:]
    return event.status.value == known and any(map(gt, _usage_of(event.usage), billed))


def _change(event: JobEvent, stage: int, seen: JobState | None) -> tuple[Change, JobState]:
    known: JobState = seen[3:] if seen is not None else [None, False, *[0] * len(BILLED)]
    left, waited, *billed = known
    now_billed = list(map(max, billed, _usage_of(event.usage)))
    wait_s = run_s = None
    if event.started_at is not None and not waited:
        wait_s = max((event.started_at - event.created_at).total_seconds(), 0)
    if (
        event.started_at is not None
        and event.kind is EventKind.ENDED
        and left != event.status.value
    ):
        run_s = max((event.at - event.started_at).total_seconds(), 0)
    change = Change(
        left=left,
        entered=event.status.value,
        billed=list(map(sub, now_billed, billed)),
        minute=int(event.at.timestamp() // 60),
        cohort=int(event.created_at.timestamp() // 3600),
        wait_s=wait_s,
        run_s=run_s,
    )
    waited = waited or wait_s is not None
    return change, [
        event.attempt,
        stage,
        event.at.timestamp(),
        event.status.value,
        waited,
        *now_billed,
    ]


def _forget(shard: Shard) -> None:
    """Keep all jobs that go on, and of those that ended the latest."""
    jobs: dict[str, JobState] = shard["jobs"]
    done = [job for job, seen in jobs.items() if seen[3] == Status.DONE]
    others = [job for job, seen in jobs.items() if seen[3] in ENDED and seen[3] != Status.DONE]
    for job in [*done[:-_DONE_KEPT], *others[:-_OTHERS_KEPT]]:
        shard["gone"] = max(shard["gone"], jobs.pop(job)[2])
