"""Counting of events: exact however often events arrive; histograms and shards."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from services.metrics.counting.event_counter import count_events
from services.metrics.counting.rules import aggregate, histogram
from services.metrics.counting.shards import ShardTable
from services.metrics.counting.stats_view import StatsView
from shared.domain.job import Status
from shared.domain.messages import EventKind, JobEvent, PreviousOutcome, Usage
from tests.support.metrics_events import (
    NOW,
    count_in_new_table,
    job_events,
    make_local_state,
    retried_job_events,
    shift_events,
)


def test_job_counts_in_its_current_status() -> None:
    for length, counts in ((1, {"PENDING": 1}), (2, {"PENDING": 0, "PROCESSING": 1})):
        stores, _ = count_in_new_table(job_events(1)[:length])
        assert stores["a"]["counts"] == counts
    stores, total = count_in_new_table(
        job_events(1) + job_events(2, failed=True) + job_events(3, "b", retries=2)
    )
    assert {k: v for k, v in total["counts"].items() if v} == {"DONE": 2, "FAILED": 1}
    assert stores["b"]["cost_nanousd"] == 300
    assert total["cost_nanousd"] == 500
    assert (sum(total["wait"]), sum(total["run"])) == (3, 3)
    assert aggregate.in_last_minutes(total, 1, NOW.timestamp()) == (2, 1)


def test_late_cost_of_cancelled_job_changes_cost_only() -> None:
    usage = Usage(cost_nanousd=70, in_doubt=1)
    cancelled = replace(job_events(1)[-1], status=Status.CANCELLED, usage=Usage(cost_nanousd=40))
    late = replace(cancelled, usage=usage)
    before, after = (
        count_in_new_table([*job_events(1)[:-1], cancelled])[1],
        count_in_new_table([*job_events(1)[:-1], cancelled, late, late, cancelled])[1],
    )
    assert (after["cost_nanousd"], after["in_doubt"]) == (70, 1)
    hour = str(int(late.created_at.timestamp() // 3600))
    assert after["cohorts"][hour] == {"cost": 70, "PENDING": 0, "PROCESSING": 0, "CANCELLED": 1}
    assert {name for name in after if after[name] != before[name]} == {
        "cost_nanousd",
        "in_doubt",
        "cohorts",
    }


def test_ended_counts_never_fall_after_retry() -> None:
    events = retried_job_events(1) + job_events(2, failed=True)
    counts: list[dict[str, int]] = []
    for length in range(len(events) + 1):
        ends = count_in_new_table(events[:length])[1]["ended"]
        counts.append({status: ends.get(status, 0) for status in ("DONE", "FAILED")})
    assert all(one[state] <= other[state] for one, other in pairwise(counts) for state in one), (
        "an ended count has fallen"
    )
    assert counts[-1] == {"DONE": 1, "FAILED": 2}
    assert count_in_new_table(events + events)[1]["ended"] == counts[-1], (
        "a repeated event has counted"
    )


def test_old_shards_without_ends_start_with_ended_jobs() -> None:
    table: dict[bytes, bytes] = {}
    events = retried_job_events(1)
    count_events(events[:-3] + job_events(2), ShardTable(table), make_local_state())
    for key, value in table.items():
        shard = orjson.loads(value)
        del shard["aggregate"]["ended"]
        table[key] = orjson.dumps(shard)

    def rebuilt_total() -> dict[str, Any]:
        stats = StatsView()
        asyncio.run(stats.rebuild((key.decode(), value) for key, value in table.items()))
        return stats.total

    assert aggregate.ends_by_status(rebuilt_total()) == {"DONE": 1, "FAILED": 1}
    count_events(events[-3:], ShardTable(table), make_local_state())
    assert aggregate.ends_by_status(rebuilt_total()) == {"DONE": 2, "FAILED": 1}


def job_and_retry_in_one_shard(
    number: int, seconds: float, *, retried: bool
) -> tuple[list[JobEvent], list[JobEvent]]:
    """Return a job's events until it fails, and those of its retry until it is done."""
    failed = shift_events(job_events(16 * number, failed=True), seconds)
    if not retried:
        return failed, []
    retry, started, _, ended = shift_events(job_events(16 * number), seconds + 3_600)
    retry = replace(
        retry,
        kind=EventKind.RETRY,
        attempt=2,
        created_at=failed[0].created_at,
        usage=failed[-1].usage,
        former=PreviousOutcome(status=Status.FAILED, at=failed[-1].at, begun=True),
    )
    started = replace(started, attempt=3, created_at=failed[0].created_at)
    return failed, [
        retry,
        started,
        replace(ended, attempt=3, created_at=failed[0].created_at, usage=Usage(images=2)),
    ]


@given(
    failures=st.integers(1, 200),
    retried_jobs=st.sets(st.integers(0, 199)),
    repeats=st.lists(st.floats(0, 1)),
    chance=st.randoms(use_true_random=False),
)
@example(failures=200, retried_jobs={0, 1, 199}, repeats=[0.0, 0.5, 0.9], chance=Random(1))
def test_retry_of_forgotten_job_counts_once(
    failures: int, retried_jobs: set[int], repeats: list[float], chance: Any
) -> None:
    jobs = [
        job_and_retry_in_one_shard(number, number, retried=number in retried_jobs)
        for number in range(failures)
    ]
    before, after = ([event for parts in jobs for event in parts[half]] for half in (0, 1))
    events = sorted(before + after, key=lambda event: event.at)  # a partition's order
    for place in repeats:  # any event may be repeated at any later time
        event = events[int(place * (len(events) - 1))]
        events.insert(chance.randint(events.index(event) + 1, len(events)), event)
    stores, total = count_in_new_table(events, batch=50)
    done = len(retried_jobs & set(range(failures)))
    expected = {"FAILED": failures - done, "DONE": done}
    assert {name: count for name, count in stores["a"]["counts"].items() if count} == {
        name: count for name, count in expected.items() if count
    }
    assert (total["cost_nanousd"], total["images"]) == (100 * failures, failures + done)
    assert (sum(total["wait"]), sum(total["run"])) == (failures, failures + done)
    assert {"DONE": 0} | aggregate.ends_by_status(total) == {"FAILED": failures, "DONE": done}


def test_unknown_previous_outcome_is_not_subtracted() -> None:
    jobs = [
        job_and_retry_in_one_shard(number, 60 * number, retried=number == 0)
        for number in range(100)
    ]
    # Retention has deleted the first job's events before its retry.
    events = [event for before, _ in jobs[1:] for event in before] + jobs[0][1]
    counts = count_in_new_table(events)[1]["counts"]
    assert {name: count for name, count in counts.items() if count} == {"FAILED": 99, "DONE": 1}


@given(st.lists(st.integers(0, 11), max_size=40), st.randoms(use_true_random=False))
def test_repeated_and_late_events_change_nothing(repeats: list[int], chance: Any) -> None:
    events = job_events(1, retries=1) + job_events(2, failed=True)
    expected = count_in_new_table(events)
    repeated = list(events)
    for index in repeats:  # any event may be repeated at any later time
        event = events[index % len(events)]
        repeated.insert(chance.randint(repeated.index(event) + 1, len(repeated)), event)
    assert count_in_new_table(repeated) == expected


@given(st.lists(st.floats(0, 20_000), min_size=1, max_size=200), st.integers(1, 99))
@example([0.0] * 3 + [1.0] * 7, 30)  # 0.1 × 3 / 3 is more than 0.1
def test_percentile_lies_in_bucket_of_true_value(values: list[float], percent: int) -> None:
    counts = histogram.empty()
    for value in values:
        counts[histogram.bucket_index(value)] += 1
    true = sorted(values)[max(0, -(-percent * len(values) // 100) - 1)]
    found = histogram.percentile(counts, percent)
    assert found is not None
    upper = next((bound for bound in histogram.BOUNDS if true <= bound), histogram.BOUNDS[-1])
    lower = max((bound for bound in histogram.BOUNDS if bound < true), default=0.0)
    assert min(lower, upper) <= found <= upper


def test_sparse_histograms_add_up() -> None:
    indices = [histogram.bucket_index(seconds) for seconds in (1, 100)]
    expected = histogram.empty()
    for index in indices:
        expected[index] += 1
    assert histogram.sum_sparse([{str(index): 1} for index in indices]) == expected
    assert histogram.percentile(histogram.empty(), 50) is None


def test_shards_stay_small_and_exact_for_many_jobs() -> None:
    table: dict[bytes, bytes] = {}
    shards, local = ShardTable(table), make_local_state()
    events = [
        event for number in range(3_000) for event in shift_events(job_events(number), number)
    ]
    for batch in (events, events[:5_000]):  # then the forgotten ones repeatedly
        for first in range(0, len(batch), 200):
            count_events(batch[first : first + 200], shards, local)
    assert local.stats.stores["a"]["counts"]["DONE"] == 3_000
    assert local.stats.total["cost_nanousd"] == 300_000
    assert max(len(orjson.loads(shard)["jobs"]) for shard in table.values()) <= 17
