"""Corrections after a restore of PostgreSQL, by a job's events and its row."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.recovery.rules import (
    Correction,
    ReportedState,
    SavedState,
    find_correction,
    merge_event,
)
from shared.domain.job import ENDED, Status
from shared.domain.messages import EventKind, JobEvent, Usage

JOB = UUID(int=1)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
FRESH = SavedState(attempt=0, status=Status.PENDING, done=frozenset(), usage=Usage())


def job_event(
    kind: EventKind, status: Status, attempt: int, *, at: int = 0, cost: int = 0, **more: Any
) -> JobEvent:
    return JobEvent(
        job=JOB,
        store="s",
        kind=kind,
        status=status,
        attempt=attempt,
        at=BEGAN + timedelta(seconds=at),
        created_at=BEGAN,
        usage=Usage(cost_nanousd=cost),
        **more,
    )


def started(attempt: int, at: int) -> JobEvent:
    return job_event(EventKind.STARTED, Status.PROCESSING, attempt, at=at)


def step(name: str, attempt: int, at: int) -> JobEvent:
    return job_event(EventKind.STEP_DONE, Status.PROCESSING, attempt, at=at, step=name)


def ended(status: Status, attempt: int, at: int, cost: int = 0) -> JobEvent:
    return job_event(EventKind.ENDED, status, attempt, at=at, cost=cost)


def merge_events(*events: JobEvent) -> ReportedState:
    reported = None
    for event in events:
        reported = merge_event(reported, event)
    assert reported is not None
    return reported


def correction_of(saved: SavedState, *events: JobEvent) -> Correction:
    found = find_correction(saved, merge_events(*events))
    assert found is not None
    return found


def test_lost_post_is_requeued_and_its_cost_kept() -> None:
    correction = correction_of(
        FRESH, started(1, 1), step("outline", 1, 2), ended(Status.DONE, 1, 3, cost=70)
    )
    assert (correction.status, correction.attempt, correction.was_done) == (Status.PENDING, 2, True)
    assert (correction.lost_usage.cost_nanousd, correction.in_doubt) == (70, ())


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.REJECTED])
def test_job_without_post_keeps_its_final_state(status: Status) -> None:
    correction = correction_of(FRESH, started(1, 1), ended(status, 1, 2, cost=5))
    assert (correction.status, correction.attempt, correction.ended_at) == (
        status,
        1,
        BEGAN + timedelta(seconds=2),
    )


def test_lost_usage_excludes_saved_usage() -> None:
    saved = SavedState(
        attempt=1,
        status=Status.PROCESSING,
        done=frozenset({"outline"}),
        usage=Usage(cost_nanousd=30),
    )
    correction = correction_of(saved, step("outline", 1, 2), ended(Status.DONE, 1, 9, cost=100))
    assert correction.lost_usage.cost_nanousd == 70


def test_steps_of_unfinished_attempt_are_in_doubt() -> None:
    correction = correction_of(FRESH, started(1, 1), step("outline", 1, 2), step("image", 1, 3))
    assert (correction.status, correction.attempt, correction.in_doubt) == (
        Status.PENDING,
        2,
        ("image", "outline"),
    )


def test_retried_cancelled_job_is_requeued() -> None:
    again = job_event(EventKind.RETRY, Status.PENDING, 1, at=2)
    assert correction_of(FRESH, ended(Status.CANCELLED, 0, 1), again).status is Status.PENDING
    assert correction_of(FRESH, again, ended(Status.CANCELLED, 0, 1)).status is Status.PENDING


def test_admission_event_corrects_no_job() -> None:
    assert merge_event(None, job_event(EventKind.ADMITTED, Status.PENDING, 0)) is None


@given(st.data())
def test_complete_database_is_never_corrected(data: st.DataObject) -> None:
    """A job's row is written before its events, and the events arrive in any order."""
    attempt, cost = 0, 0
    done: set[str] = set()
    status, events = Status.PENDING, list[JobEvent]()
    for now in range(data.draw(st.integers(0, 8))):
        if status is Status.PENDING:
            attempt, status = attempt + 1, Status.PROCESSING
            events.append(started(attempt, now))
        elif status is Status.PROCESSING:
            action = data.draw(st.sampled_from(["step", "retry", "end"]))
            if action == "step":
                name = data.draw(st.sampled_from(["outline", "article", "image"]))
                done.add(name)
                cost += 10
                events.append(step(name, attempt, now))
            elif action == "retry":
                status = Status.PENDING
                events.append(job_event(EventKind.RETRY, status, attempt, at=now, cost=cost))
            else:
                status = data.draw(st.sampled_from([Status.DONE, Status.FAILED, Status.CANCELLED]))
                events.append(ended(status, attempt, now, cost))
        elif status in (Status.FAILED, Status.CANCELLED):
            attempt, status = attempt + 1, Status.PENDING
            events.append(job_event(EventKind.RETRY, status, attempt, at=now, cost=cost))
    received = data.draw(st.permutations(events)) if events else []
    saved = SavedState(
        attempt=attempt, status=status, done=frozenset(done), usage=Usage(cost_nanousd=cost)
    )
    if received:
        assert find_correction(saved, merge_events(*received)) is None


@given(
    st.sampled_from(sorted(Status)),
    st.integers(0, 3),
    st.sampled_from(sorted(Status)),
    st.integers(0, 3),
)
def test_corrected_job_needs_no_second_correction(
    status: Status, attempt: int, saved_status: Status, saved_attempt: int
) -> None:
    kind = EventKind.ENDED if status in ENDED else EventKind.STARTED
    reported = merge_events(job_event(kind, status, attempt, at=1, cost=50))
    correction = find_correction(
        SavedState(attempt=saved_attempt, status=saved_status, done=frozenset(), usage=Usage()),
        reported,
    )
    if correction is not None:
        after = SavedState(
            attempt=correction.attempt,
            status=correction.status,
            done=frozenset(),
            usage=correction.lost_usage,
        )
        assert find_correction(after, reported) is None
