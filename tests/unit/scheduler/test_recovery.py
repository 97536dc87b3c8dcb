"""What is corrected after a restore, by what was said of a job and what the database has of it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.recovery.rules import Correction, SavedState, ReportedState, merge_event, find_correction
from shared.domain.job import ENDED, Status
from shared.domain.messages import EventKind, JobEvent, Usage

JOB = UUID(int=1)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
FRESH = SavedState(attempt=0, status=Status.PENDING, done=frozenset(), usage=Usage())


def said(
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
    return said(EventKind.STARTED, Status.PROCESSING, attempt, at=at)


def step(name: str, attempt: int, at: int) -> JobEvent:
    return said(EventKind.STEP_DONE, Status.PROCESSING, attempt, at=at, step=name)


def ended(status: Status, attempt: int, at: int, cost: int = 0) -> JobEvent:
    return said(EventKind.ENDED, status, attempt, at=at, cost=cost)


def word_of(*events: JobEvent) -> ReportedState:
    word = None
    for event in events:
        word = merge_event(word, event)
    assert word is not None
    return word


def corrected(known: SavedState, *events: JobEvent) -> Correction:
    found = find_correction(known, word_of(*events))
    assert found is not None
    return found


def test_a_post_that_is_gone_is_written_again_under_a_new_number_and_its_bill_is_kept() -> None:
    right = corrected(
        FRESH, started(1, 1), step("outline", 1, 2), ended(Status.DONE, 1, 3, cost=70)
    )
    assert (right.status, right.attempt, right.was_done) == (Status.PENDING, 2, True)
    assert (right.bill.cost_nanousd, right.doubted) == (70, ())


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.REJECTED])
def test_what_ended_without_a_post_stays_as_it_ended(status: Status) -> None:
    right = corrected(FRESH, started(1, 1), ended(status, 1, 2, cost=5))
    assert (right.status, right.attempt, right.ended_at) == (
        status,
        1,
        BEGAN + timedelta(seconds=2),
    )


def test_only_what_is_not_saved_is_on_the_bill() -> None:
    known = SavedState(
        attempt=1,
        status=Status.PROCESSING,
        done=frozenset({"outline"}),
        usage=Usage(cost_nanousd=30),
    )
    right = corrected(known, step("outline", 1, 2), ended(Status.DONE, 1, 9, cost=100))
    assert right.bill.cost_nanousd == 70


def test_steps_of_an_attempt_that_was_cut_are_in_doubt() -> None:
    right = corrected(FRESH, started(1, 1), step("outline", 1, 2), step("image", 1, 3))
    assert (right.status, right.attempt, right.doubted) == (Status.PENDING, 2, ("image", "outline"))


def test_a_cancelled_job_that_was_asked_for_again_waits() -> None:
    again = said(EventKind.RETRY, Status.PENDING, 1, at=2)
    assert corrected(FRESH, ended(Status.CANCELLED, 0, 1), again).status is Status.PENDING
    assert (
        corrected(FRESH, again, ended(Status.CANCELLED, 0, 1)).status is Status.PENDING
    )  # in whatever order


def test_admission_alone_says_nothing() -> None:
    assert merge_event(None, said(EventKind.ADMITTED, Status.PENDING, 0)) is None


@given(st.data())
def test_a_database_that_lost_nothing_is_never_corrected(data: st.DataObject) -> None:
    """A job's life as its row and its events have it, the row first: whatever was heard of it, in whatever order."""
    attempt, cost = 0, 0
    done: set[str] = set()
    status, events = Status.PENDING, list[JobEvent]()
    for now in range(data.draw(st.integers(0, 8))):
        if status is Status.PENDING:
            attempt, status = attempt + 1, Status.PROCESSING
            events.append(started(attempt, now))
        elif status is Status.PROCESSING:
            what = data.draw(st.sampled_from(["step", "retry", "end"]))
            if what == "step":
                name = data.draw(st.sampled_from(["outline", "article", "image"]))
                done.add(name)
                cost += 10
                events.append(step(name, attempt, now))
            elif what == "retry":
                status = Status.PENDING
                events.append(said(EventKind.RETRY, status, attempt, at=now, cost=cost))
            else:
                status = data.draw(st.sampled_from([Status.DONE, Status.FAILED, Status.CANCELLED]))
                events.append(ended(status, attempt, now, cost))
        elif status in (Status.FAILED, Status.CANCELLED):
            attempt, status = attempt + 1, Status.PENDING
            events.append(said(EventKind.RETRY, status, attempt, at=now, cost=cost))
    heard = data.draw(st.permutations(events)) if events else []
    known = SavedState(
        attempt=attempt, status=status, done=frozenset(done), usage=Usage(cost_nanousd=cost)
    )
    if heard:
        assert find_correction(known, word_of(*heard)) is None


@given(
    st.sampled_from(sorted(Status)),
    st.integers(0, 3),
    st.sampled_from(sorted(Status)),
    st.integers(0, 3),
)
def test_a_correction_is_made_once(
    status: Status, attempt: int, was: Status, known_attempt: int
) -> None:
    kind = EventKind.ENDED if status in ENDED else EventKind.STARTED
    word = word_of(said(kind, status, attempt, at=1, cost=50))
    right = find_correction(SavedState(attempt=known_attempt, status=was, done=frozenset(), usage=Usage()), word)
    if right is not None:
        after = SavedState(
            attempt=right.attempt, status=right.status, done=frozenset(), usage=right.bill
        )
        assert find_correction(after, word) is None
