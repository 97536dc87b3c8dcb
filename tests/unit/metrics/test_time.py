"""metrics' folding in time: jobs that come back, events that get lost, windows, timelines, drift."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.metrics.counting.rules import aggregate, fold
from services.metrics.counting.rules.timeline import RecentJobs
from services.metrics.http import query
from services.metrics.cluster import view
from services.metrics.reconcile.rules import Comparison, compare, hours_to_compare
from shared.domain.job import Status
from shared.domain.messages import EventKind, JobEvent
from tests.unit.metrics.test_counting_rules import NOW, beside, folded, later, life


def test_a_job_that_is_cancelled_and_asked_for_again_is_counted_where_it_stands() -> None:
    admitted, started, _, done = life(1)
    moments = (NOW + timedelta(seconds=second) for second in range(10))

    def then(event: JobEvent, status: Status, kind: EventKind, attempt: int = 0) -> JobEvent:
        return replace(event, status=status, kind=kind, attempt=attempt, at=next(moments))

    cancelled = then(admitted, Status.CANCELLED, EventKind.ENDED)
    again = then(admitted, Status.PENDING, EventKind.RETRY)
    cancelled_again = then(admitted, Status.CANCELLED, EventKind.ENDED)
    and_again = then(admitted, Status.PENDING, EventKind.RETRY)
    told = [
        admitted,
        cancelled,
        again,
        cancelled_again,
        and_again,
        started,
        replace(done, at=next(moments)),
    ]
    stands = ("PENDING", "CANCELLED", "PENDING", "CANCELLED", "PENDING", "PROCESSING", "DONE")
    for number, status in enumerate(stands, start=1):
        heard = [event for event in told[:number] for _ in range(2)] + told[:number]
        _, total = folded(heard)
        assert {name: count for name, count in total["counts"].items() if count} == {status: 1}, (
            number
        )


def test_a_lost_event_is_made_up_for_by_the_next() -> None:
    admitted, started, step, done = life(1)
    for heard, status in (
        ([admitted, step], "PROCESSING"),
        ([admitted, done], "DONE"),
        ([started, done], "DONE"),
    ):
        _, total = folded(heard)
        assert {name: count for name, count in total["counts"].items() if count} == {status: 1}
        assert sum(total["wait"]) == 1
        assert total["wait_ms"] == 3_000


def test_windows_of_a_minute_an_hour_and_a_day() -> None:
    events = [
        event
        for number, ago_s in enumerate((10, 600, 1_200, 7_200, 200_000))
        for event in later(life(number, failed=number == 1), -ago_s)
    ]
    _, total = folded(events, at_once=3)
    windows = view.overview(total, None, [], NOW, beside())["windows"]
    assert [windows[name]["done"] for name in ("minute", "hour", "day")] == [1, 2, 3]
    assert [windows[name]["failed"] for name in ("minute", "hour", "day")] == [0, 1, 1]
    assert windows["hour"]["failedPercent"] == pytest.approx(33.33)
    assert 2 <= windows["day"]["waitSeconds"]["p50"] <= 4
    assert 15 <= windows["minute"]["runSeconds"]["p99"] <= 30


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 2), st.booleans()), max_size=30),
    st.randoms(),
)
def test_the_last_hour_is_told_minute_by_minute(
    jobs: list[tuple[int, int, bool]], chance: Any
) -> None:
    lives = [
        later(life(n, retries=retries), -60 * minutes)[: 1 if stays else None]
        for n, (minutes, retries, stays) in enumerate(jobs)
    ]
    events = [event for one in lives for event in one]
    _, total = folded([*events, *chance.sample(events, len(events) // 2)], at_once=7)
    told = view.overview(total, None, [], NOW, beside())["history"]
    assert told["from"] == NOW.replace(second=0) - timedelta(hours=1)
    ends = [told["from"] + timedelta(minutes=1 + number) for number in range(60)]

    def waits(one: list[JobEvent], at: datetime) -> bool:
        return [event.status for event in one if event.at < at][-1:] == [Status.PENDING]

    assert told["pending"] == [sum(waits(one, end) for one in lives) for end in ends]
    done = [event.at for one in lives for event in one if event.status == "DONE"]
    assert told["done"] == [
        sum(end - timedelta(minutes=1) <= at < end for at in done) for end in ends
    ]


def test_what_was_counted_before_the_queue_was_is_read_all_the_same() -> None:
    shard = fold.empty_shard()
    del shard["aggregate"]["queued"]
    for number in (1, 2):
        total = aggregate.merge([shard["aggregate"]])
        told = view.overview(total, None, [], NOW, beside())["history"]
        assert (told["pending"], total["counts"].get("PENDING", 0)) == ([0] * 60, number - 1)
        fold.fold_event(replace(life(number)[0], at=NOW), shard)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(1, 5),
)
def test_parts_of_several_processes_add_up_to_the_whole(
    jobs: list[tuple[int, int]], processes: int
) -> None:
    lives = [later(life(n, f"s{store}"), 60 * minute) for n, (minute, store) in enumerate(jobs)]
    _, whole = folded([event for one in lives for event in one], at_once=50)
    parts = [
        folded([event for one in lives[number::processes] for event in one], at_once=50)[1]
        for number in range(processes)
    ]
    merged = aggregate.merge(parts)
    now = max(event.at for one in lives for event in one)
    assert view.overview(merged, None, [], now, beside()) == view.overview(
        whole, None, [], now, beside()
    )
    assert merged["counts"] == whole["counts"]


def test_a_timeline_tells_all_steps_once_and_in_order() -> None:
    admitted, started, step, done = life(1)
    started = replace(started, forwarded_at=started.at - timedelta(seconds=1), worker="w")
    steps = [
        replace(step, step=name, at=started.at + timedelta(seconds=after), limit_wait_s=after / 2)
        for name, after in (("outline", 2), ("article", 8))
    ]
    recent = RecentJobs(kept=2)
    for event in [admitted, started, *steps, done, started, admitted, *steps]:
        recent.add_event(event)
    shown = recent.timeline(admitted.job)
    assert shown is not None
    assert [entry["kind"] for entry in shown["events"]] == [
        "queued",
        "admitted",
        "forwarded",
        "started",
        "step-done",
        "step-done",
        "ended",
    ]
    assert [entry["limitWaitSeconds"] for entry in shown["events"] if entry["step"]] == [1, 4]
    assert (shown["status"], shown["waitSeconds"], shown["costUsd"]) == ("DONE", 3.0, 100 / 1e9)
    assert shown["finishedAt"] == NOW
    for number in (2, 3):
        recent.add_event(life(number)[0])
    assert recent.timeline(admitted.job) is None, "only so many are kept"
    assert {row["job"] for row in recent.jobs(10)} == {UUID(int=2), UUID(int=3)}


def test_values_that_a_query_cannot_have_are_named() -> None:
    number = query.IntegerParameter(default=20, low=1, high=100)
    assert query.numbers([("limit", "7")], limit=number) == {"limit": 7}
    assert query.numbers([], limit=number) == {"limit": 20}
    for wrong in ("0", "101", "-1", "1.5", "", "٣", "9" * 5_000):
        with pytest.raises(query.InvalidQueryError) as caught:
            query.numbers([("limit", wrong), ("page", "1")], limit=number)
        assert [error["field"] for error in caught.value.errors] == ["page", "limit"]
    with pytest.raises(query.InvalidQueryError, match="limit must not be given more than once"):
        query.numbers([("limit", "7"), ("limit", "8")], limit=number)
    with pytest.raises(query.InvalidQueryError, match="format must not be given more than once"):
        query.choice([("format", "a"), ("format", "a")], "format", ("a", "b"), "b")


def cohorts(**numbers: int) -> dict[str, dict[str, int]]:
    return {"5": numbers}


def compared(*looks: tuple[int, int, int], name: str = "DONE") -> Comparison:
    """The last of several comparisons: each of what was counted before, what is true, and what was counted after."""
    found: Comparison | None = None
    for look in looks:
        before, truth, after = (cohorts(**{name: number}) for number in look)
        found = compare(before, truth, after, range(5, 6), NOW, found)
    assert found is not None
    return found


def drifted(*looks: tuple[int, int, int], name: str = "DONE") -> tuple[int, int]:
    drift = compared(*looks, name=name).drift
    assert drift is not None
    return drift.jobs, drift.cost_nanousd


def test_what_has_not_arrived_yet_is_no_drift() -> None:
    assert compared((7, 9, 9)).suspected == {}
    assert compared((7, 9, 8)).suspected == {(5, "DONE"): -1}
    assert compared((1, 1, 1), name="PROCESSING").suspected == {}
    assert drifted((7, 9, 8), (9, 9, 9)) == (0, 0), "it has come meanwhile"
    assert drifted((7, 9, 8), (8, 9, 8)) == (1, 0), "lost"
    assert drifted((10, 9, 10), (10, 9, 10)) == (1, 0), "counted twice"
    assert drifted((8, 9, 8), (10, 9, 10)) == (0, 0), "each time something else was on its way"
    assert drifted((5, 9, 7), (5, 9, 7), name="cost") == (0, 2)


def test_one_comparison_alone_says_nothing() -> None:
    assert compared((7, 9, 8)).drift is None
    assert compared((9, 9, 9)).drift is None


def test_a_job_that_stands_in_another_state_is_wrong_once() -> None:
    ours, truth = cohorts(PENDING=1, PROCESSING=2, DONE=5), cohorts(DONE=8, FAILED=1)
    first = compare(ours, truth, ours, range(5, 6), NOW, None)
    drift = compare(ours, truth, ours, range(5, 6), NOW, first).drift
    assert drift is not None
    assert drift.jobs == 4, "three did not end here, and one was never heard of"


def test_hours_whose_events_retention_has_taken_are_not_compared() -> None:
    now = 1_000 * 3_600 + 50.0
    assert hours_to_compare(None, now) == range(977, 1_001)
    assert hours_to_compare(998 * 3_600 + 1.0, now) == range(999, 1_001)
    assert len(hours_to_compare(now, now)) == 0
