"""Counting over time: retried jobs, lost events, windows, history, timelines."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.metrics.cluster import view
from services.metrics.counting.rules import aggregate, fold
from services.metrics.counting.rules.timeline import RecentJobs
from shared.domain.job import Status
from shared.domain.messages import EventKind, JobEvent
from tests.support.metrics_events import (
    NOW,
    count_in_new_table,
    job_events,
    make_completeness,
    shift_events,
)


def test_repeatedly_cancelled_job_counts_in_current_status() -> None:
    admitted, started, _, done = job_events(1)
    moments = (NOW + timedelta(seconds=second) for second in range(10))

    def next_event(event: JobEvent, status: Status, kind: EventKind, attempt: int = 0) -> JobEvent:
        return replace(event, status=status, kind=kind, attempt=attempt, at=next(moments))

    cancelled = next_event(admitted, Status.CANCELLED, EventKind.ENDED)
    retried = next_event(admitted, Status.PENDING, EventKind.RETRY)
    cancelled_again = next_event(admitted, Status.CANCELLED, EventKind.ENDED)
    retried_again = next_event(admitted, Status.PENDING, EventKind.RETRY)
    events = [
        admitted,
        cancelled,
        retried,
        cancelled_again,
        retried_again,
        started,
        replace(done, at=next(moments)),
    ]
    statuses = ("PENDING", "CANCELLED", "PENDING", "CANCELLED", "PENDING", "PROCESSING", "DONE")
    for number, status in enumerate(statuses, start=1):
        repeated = [event for event in events[:number] for _ in range(2)] + events[:number]
        _, total = count_in_new_table(repeated)
        assert {name: count for name, count in total["counts"].items() if count} == {status: 1}, (
            number
        )


def test_next_event_makes_up_for_lost_one() -> None:
    admitted, started, step, done = job_events(1)
    for received, status in (
        ([admitted, step], "PROCESSING"),
        ([admitted, done], "DONE"),
        ([started, done], "DONE"),
    ):
        _, total = count_in_new_table(received)
        assert {name: count for name, count in total["counts"].items() if count} == {status: 1}
        assert sum(total["wait"]) == 1
        assert total["wait_ms"] == 3_000


def test_windows_of_minute_hour_and_day() -> None:
    events = [
        event
        for number, ago_s in enumerate((10, 600, 1_200, 7_200, 200_000))
        for event in shift_events(job_events(number, failed=number == 1), -ago_s)
    ]
    _, total = count_in_new_table(events, batch=3)
    windows = view.overview(total, None, [], NOW, make_completeness())["windows"]
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
def test_history_shows_last_hour_by_minute(jobs: list[tuple[int, int, bool]], chance: Any) -> None:
    all_jobs = [
        shift_events(job_events(n, retries=retries), -60 * minutes)[: 1 if is_pending else None]
        for n, (minutes, retries, is_pending) in enumerate(jobs)
    ]
    events = [event for job in all_jobs for event in job]
    _, total = count_in_new_table([*events, *chance.sample(events, len(events) // 2)], batch=7)
    history = view.overview(total, None, [], NOW, make_completeness())["history"]
    assert history["from"] == NOW.replace(second=0) - timedelta(hours=1)
    ends = [history["from"] + timedelta(minutes=1 + number) for number in range(60)]

    def waits(job: list[JobEvent], at: datetime) -> bool:
        return [event.status for event in job if event.at < at][-1:] == [Status.PENDING]

    assert history["pending"] == [sum(waits(job, end) for job in all_jobs) for end in ends]
    done = [event.at for job in all_jobs for event in job if event.status == "DONE"]
    assert history["done"] == [
        sum(end - timedelta(minutes=1) <= at < end for at in done) for end in ends
    ]


def test_old_shards_without_queue_growth_are_read() -> None:
    shard = fold.empty_shard()
    del shard["aggregate"]["queued"]
    for number in (1, 2):
        total = aggregate.merge([shard["aggregate"]])
        history = view.overview(total, None, [], NOW, make_completeness())["history"]
        assert (history["pending"], total["counts"].get("PENDING", 0)) == ([0] * 60, number - 1)
        fold.fold_event(replace(job_events(number)[0], at=NOW), shard)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(1, 5),
)
def test_statistics_of_several_processes_add_up(
    jobs: list[tuple[int, int]], processes: int
) -> None:
    all_jobs = [
        shift_events(job_events(n, f"s{store}"), 60 * minute)
        for n, (minute, store) in enumerate(jobs)
    ]
    _, total = count_in_new_table([event for job in all_jobs for event in job], batch=50)
    parts = [
        count_in_new_table(
            [event for job in all_jobs[number::processes] for event in job], batch=50
        )[1]
        for number in range(processes)
    ]
    merged = aggregate.merge(parts)
    now = max(event.at for job in all_jobs for event in job)
    assert view.overview(merged, None, [], now, make_completeness()) == view.overview(
        total, None, [], now, make_completeness()
    )
    assert merged["counts"] == total["counts"]


def test_timeline_has_each_step_once_in_order() -> None:
    admitted, started, step, done = job_events(1)
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
        recent.add_event(job_events(number)[0])
    assert recent.timeline(admitted.job) is None, "more jobs are kept than configured"
    assert {row["job"] for row in recent.latest_rows(10)} == {UUID(int=2), UUID(int=3)}
