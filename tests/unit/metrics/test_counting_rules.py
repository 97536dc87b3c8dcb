"""metrics' folding: exact however often events come; histograms that merge; totals that add up."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from services.metrics.cluster import rules
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.counting.event_counter import LocalState, count_events
from services.metrics.counting.rules import aggregate, histogram
from services.metrics.counting.rules.timeline import RecentJobs
from services.metrics.counting.shards import ShardTable
from services.metrics.counting.stats_view import StatsView
from services.metrics.export import metric_definitions, prometheus
from services.metrics.cluster import view
from services.metrics.cluster.view import Completeness
from services.metrics.reconcile.rules import Drift
from shared.domain.budget import BudgetState
from shared.domain.job import Status
from shared.domain.messages import (
    EventKind,
    FairnessWindow,
    JobEvent,
    LimiterReport,
    PreviousOutcome,
    SchedulerReport,
    StoreQueueReport,
    Usage,
    WorkerReport,
)
from tests.support import prometheus_text

NOW = datetime(2026, 11, 24, 12, 0, 30, tzinfo=UTC)


def life(
    number: int, store: str = "a", *, failed: bool = False, retries: int = 0
) -> list[JobEvent]:
    """All events of one job, in order."""
    asked = NOW - timedelta(seconds=20)
    base = JobEvent(
        job=UUID(int=number),
        store=store,
        kind=EventKind.ADMITTED,
        status=Status.PENDING,
        attempt=0,
        at=asked,
        created_at=asked,
    )
    events = [base]
    for attempt in range(1, retries + 2):
        begun = replace(
            base,
            attempt=attempt,
            kind=EventKind.STARTED,
            status=Status.PROCESSING,
            at=asked + timedelta(seconds=3),
            started_at=asked + timedelta(seconds=3),
        )
        events += [begun, replace(begun, kind=EventKind.STEP_DONE, step="outline")]
        usage = Usage(
            input_tokens=10 * attempt,
            output_tokens=20 * attempt,
            images=1,
            cost_nanousd=100 * attempt,
        )
        if attempt <= retries:
            events.append(replace(begun, kind=EventKind.RETRY, status=Status.PENDING, usage=usage))
        else:
            status = Status.FAILED if failed else Status.DONE
            events.append(replace(begun, kind=EventKind.ENDED, status=status, at=NOW, usage=usage))
    return events


def a_memory(*, jobs: int = 100) -> LocalState:
    return LocalState(reports=LatestReports(silence_s=10), stats=StatsView(), recent=RecentJobs(kept=jobs))


def later(events: list[JobEvent], seconds: float) -> list[JobEvent]:
    """The same, so much later."""
    by = timedelta(seconds=seconds)
    return [
        replace(
            event,
            at=event.at + by,
            created_at=event.created_at + by,
            started_at=event.started_at + by if event.started_at else None,
        )
        for event in events
    ]


def folded(events: list[JobEvent], *, at_once: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
    """(by store, in all) after these events, and the same from the table alone."""
    table: dict[bytes, bytes] = {}
    shards = ShardTable(table, kept=2)
    local, stats_are_current = a_memory(), StatsView()
    for first in range(0, len(events), at_once):
        count_events(events[first : first + at_once], shards, local)
    asyncio.run(stats_are_current.rebuild((key.decode(), value) for key, value in table.items()))
    assert (stats_are_current.stores, stats_are_current.total) == (local.stats.stores, local.stats.total)
    return local.stats.stores, local.stats.total


def test_a_job_is_counted_where_it_stands() -> None:
    for length, counts in ((1, {"PENDING": 1}), (2, {"PENDING": 0, "PROCESSING": 1})):
        stores, _ = folded(life(1)[:length])
        assert stores["a"]["counts"] == counts
    stores, total = folded(life(1) + life(2, failed=True) + life(3, "b", retries=2))
    assert {k: v for k, v in total["counts"].items() if v} == {"DONE": 2, "FAILED": 1}
    assert stores["b"]["cost_nanousd"] == 300
    assert total["cost_nanousd"] == 500
    assert (sum(total["wait"]), sum(total["run"])) == (3, 3)
    assert aggregate.in_last_minutes(total, 1, NOW.timestamp()) == (2, 1)


def test_a_late_bill_of_a_cancelled_job_adds_to_the_bill_alone() -> None:
    usage = Usage(cost_nanousd=70, in_doubt=1)
    cancelled = replace(life(1)[-1], status=Status.CANCELLED, usage=Usage(cost_nanousd=40))
    late = replace(cancelled, usage=usage)
    before, after = (
        folded([*life(1)[:-1], cancelled])[1],
        folded([*life(1)[:-1], cancelled, late, late, cancelled])[1],
    )
    assert (after["cost_nanousd"], after["in_doubt"]) == (70, 1)
    hour = str(int(late.created_at.timestamp() // 3600))
    assert after["cohorts"][hour] == {"cost": 70, "PENDING": 0, "PROCESSING": 0, "CANCELLED": 1}
    assert {name for name in after if after[name] != before[name]} == {
        "cost_nanousd",
        "in_doubt",
        "cohorts",
    }


def asked_again(number: int) -> list[JobEvent]:
    """A job that fails, is asked for again, and is done."""
    events = life(number, failed=True)
    again = replace(events[0], at=NOW + timedelta(seconds=1))
    begun = replace(events[1], attempt=2, at=NOW + timedelta(seconds=2))
    return [
        *events,
        again,
        begun,
        replace(events[-1], attempt=2, at=NOW + timedelta(seconds=9), status=Status.DONE),
    ]


def test_ends_are_counted_and_a_job_that_is_asked_for_again_takes_none_back() -> None:
    events = asked_again(1) + life(2, failed=True)
    seen: list[dict[str, int]] = []
    for length in range(len(events) + 1):
        ends = folded(events[:length])[1]["ended"]
        seen.append({status: ends.get(status, 0) for status in ("DONE", "FAILED")})
    assert all(one[state] <= other[state] for one, other in pairwise(seen) for state in one), (
        "never less than before"
    )
    assert seen[-1] == {"DONE": 1, "FAILED": 2}
    assert folded(events + events)[1]["ended"] == seen[-1], "a repeat is no end"


def test_what_was_written_before_ends_were_kept_begins_with_the_jobs_that_stand_ended() -> None:
    table: dict[bytes, bytes] = {}
    events = asked_again(1)
    count_events(events[:-3] + life(2), ShardTable(table), a_memory())
    for key, value in table.items():
        shard = orjson.loads(value)
        del shard["aggregate"]["ended"]
        table[key] = orjson.dumps(shard)

    def stats_are_current() -> dict[str, Any]:
        picture = StatsView()
        asyncio.run(stats.rebuild((key.decode(), value) for key, value in table.items()))
        return stats.total

    assert aggregate.ends_by_status(stats_are_current()) == {"DONE": 1, "FAILED": 1}
    count_events(events[-3:], ShardTable(table), a_memory())
    assert aggregate.ends_by_status(stats_are_current()) == {"DONE": 2, "FAILED": 1}


def in_one_shard(
    number: int, seconds: float, *, again: bool
) -> tuple[list[JobEvent], list[JobEvent]]:
    """A job's life until it fails; and after it, if a person asks for it again, until it is done."""
    failed = later(life(16 * number, failed=True), seconds)
    if not again:
        return failed, []
    asked, begun, _, ended = later(life(16 * number), seconds + 3_600)
    asked = replace(
        asked,
        kind=EventKind.RETRY,
        attempt=2,
        created_at=failed[0].created_at,
        usage=failed[-1].usage,
        former=PreviousOutcome(status=Status.FAILED, at=failed[-1].at, begun=True),
    )
    begun = replace(begun, attempt=3, created_at=failed[0].created_at)
    return failed, [
        asked,
        begun,
        replace(ended, attempt=3, created_at=failed[0].created_at, usage=Usage(images=2)),
    ]


@given(
    failures=st.integers(1, 200),
    asked_again=st.sets(st.integers(0, 199)),
    repeats=st.lists(st.floats(0, 1)),
    chance=st.randoms(use_true_random=False),
)
@example(failures=200, asked_again={0, 1, 199}, repeats=[0.0, 0.5, 0.9], chance=Random(1))
def test_a_forgotten_job_that_is_asked_for_again_counts_once(
    failures: int, asked_again: set[int], repeats: list[float], chance: Any
) -> None:
    lives = [
        in_one_shard(number, number, again=number in asked_again) for number in range(failures)
    ]
    before, after = ([event for parts in lives for event in parts[half]] for half in (0, 1))
    events = before + after
    for place in repeats:  # any event may be heard again, any time after it was heard first
        event = events[int(place * (len(events) - 1))]
        events.insert(chance.randint(events.index(event) + 1, len(events)), event)
    stores, total = folded(events, at_once=50)
    done = len(asked_again & set(range(failures)))
    expected = {"FAILED": failures - done, "DONE": done}
    assert {name: count for name, count in stores["a"]["counts"].items() if count} == {
        name: count for name, count in expected.items() if count
    }
    assert (total["cost_nanousd"], total["images"]) == (100 * failures, failures + done)
    assert (sum(total["wait"]), sum(total["run"])) == (failures, failures + done)
    assert {"DONE": 0} | aggregate.ends_by_status(total) == {"FAILED": failures, "DONE": done}


def test_a_former_end_that_was_never_heard_takes_nothing_back() -> None:
    lives = [in_one_shard(number, 60 * number, again=number == 0) for number in range(100)]
    events = [event for before, _ in lives[1:] for event in before] + lives[0][
        1
    ]  # retention has taken the first
    counts = folded(events)[1]["counts"]
    assert {name: count for name, count in counts.items() if count} == {"FAILED": 99, "DONE": 1}


@given(st.lists(st.integers(0, 11), max_size=40), st.randoms(use_true_random=False))
def test_repeats_and_late_arrivals_change_nothing(again: list[int], chance: Any) -> None:
    events = life(1, retries=1) + life(2, failed=True)
    expected = folded(events)
    repeated = list(events)
    for index in again:  # any event may be heard again, any time after it was heard first
        event = events[index % len(events)]
        repeated.insert(chance.randint(repeated.index(event) + 1, len(repeated)), event)
    assert folded(repeated) == expected


@given(st.lists(st.floats(0, 20_000), min_size=1, max_size=200), st.integers(1, 99))
@example([0.0] * 3 + [1.0] * 7, 30)  # 0.1 × 3 / 3 is more than 0.1
def test_a_percentile_lies_in_the_bucket_of_the_true_one(values: list[float], percent: int) -> None:
    counts = histogram.empty()
    for value in values:
        counts = histogram.observe(counts, value)
    true = sorted(values)[max(0, -(-percent * len(values) // 100) - 1)]
    found = histogram.percentile(counts, percent)
    assert found is not None
    upper = next((bound for bound in histogram.BOUNDS if true <= bound), histogram.BOUNDS[-1])
    lower = max((bound for bound in histogram.BOUNDS if bound < true), default=0.0)
    assert min(lower, upper) <= found <= upper


def test_histograms_merge() -> None:
    one, other = histogram.observe(histogram.empty(), 1), histogram.observe(histogram.empty(), 100)
    assert histogram.merge([one, other]) == histogram.observe(one, 100)
    assert histogram.percentile(histogram.empty(), 50) is None


def report(worker: str, *, at: datetime = NOW, used: float = 100, queued: int = 2) -> WorkerReport:
    states = tuple(
        LimiterReport(
            provider="openai",
            model="m",
            resource=resource,
            limit=limit,
            share=limit / 2,
            level=1,
            used=used,
            queued=queued,
        )
        for resource, limit in (("requests", 500.0), ("tokens", 200_000.0))
    )
    return WorkerReport(
        worker=worker,
        at=at,
        started_at=NOW,
        partitions=(0,),
        slots=50,
        running=3,
        limiters=states,
        standin=True,
    )


def beside() -> Completeness:
    drift = Drift(at=NOW, hours=24, jobs=0, cost_nanousd=0)
    return Completeness(monitored=MonitoredValues(lag={"admit": 4}, dead_letters=2, drift=drift), malformed=1)


ALL = beside()


def scheduler(pending: int, *, epoch: int = 1, at: datetime = NOW) -> SchedulerReport:
    return SchedulerReport(
        scheduler="s",
        at=at,
        epoch=epoch,
        pending=pending,
        in_flight=4,
        oldest_pending_at=NOW - timedelta(seconds=9),
        stores=(
            StoreQueueReport(
                store="a", queued=pending, in_flight=4, served_nanousd=1, budget=BudgetState.WARNING
            ),
        ),
        stores_warned=2,
        stores_stopped=5,
        fairness=FairnessWindow(
            began_at=NOW - timedelta(minutes=1),
            seconds=60,
            contenders=2,
            jain=0.98,
            largest_gap_nanousd=2e9,
            light_stores=1,
            light_slowdown=1.02,
        ),
    )


def test_the_contracts_four_numbers() -> None:
    reports = [report("w1"), report("w2")]
    assert view.contract_metrics(scheduler(7), reports) == {
        "blog_queue_size": 7,
        "openai_rpm_usage": 40.0,
        "openai_tpm_usage": 0.1,
        "openai_queue_length": 4,
    }
    assert view.contract_metrics(None, []) == {
        "blog_queue_size": 0,
        "openai_rpm_usage": 0.0,
        "openai_tpm_usage": 0.0,
        "openai_queue_length": 0,
    }


def test_limiter_totals_add_up_over_workers() -> None:
    requests = rules.limiter_totals([report("w1"), report("w2", used=50)])["openai"]["m"]["requests"]
    assert (
        requests["usedLastMinute"]
        == 150
        == sum(worker["usedLastMinute"] for worker in requests["byWorker"])
    )
    assert requests["sharePerMinute"] == requests["limitPerMinute"] == 500
    assert requests["usagePercent"] == 30.0


def test_what_calls_wait_for_is_named() -> None:
    def named(*reports: WorkerReport) -> list[tuple[str, str]]:
        return [(one["model"], one["by"]) for one in rules.find_bottlenecks(rules.limiter_totals(reports), NOW)]

    def changed(index: int, **to: Any) -> WorkerReport:
        states = list(report("w").limiters)
        states[index] = replace(states[index], **to)
        return replace(report("w"), limiters=tuple(states))

    assert named() == named(report("w", queued=0)) == []
    assert named(report("w")) == [("m", "tokens")], (
        "one token of 100,000 is less than one request of 250"
    )
    assert named(changed(0, level=-3.0)) == [("m", "requests")]
    assert named(changed(0, level=-3.0, cooling_until=NOW + timedelta(seconds=1))) == [
        ("m", "cooling down")
    ]
    assert named(changed(1, cooling_until=NOW)) == [("m", "tokens")], "it has cooled down"
    assert named(changed(0, circuit_open=True, queued=0)) == [("m", "unavailable")]
    binding = [
        state["binds"]
        for state in rules.limiter_totals([report("w1"), report("w2")])["openai"]["m"].values()
    ]
    assert binding == [False, True]


def test_a_silent_worker_is_shown_as_gone_and_left_out() -> None:
    board = LatestReports(silence_s=10)
    reports.add_report(report("here"))
    reports.add_report(report("gone", at=NOW - timedelta(seconds=11)))
    reports.add_report(report("here", at=NOW - timedelta(seconds=5)))
    assert [worker.worker for worker in reports.alive_workers(NOW)] == ["here"]
    assert [worker.worker for worker in reports.silent_workers(NOW)] == ["gone"]
    assert reports.alive_workers(NOW)[0].at == NOW


def test_the_newer_leader_is_believed() -> None:
    board = LatestReports(silence_s=10)
    reports.add_report(scheduler(5, epoch=2))
    reports.add_report(scheduler(9, epoch=1, at=NOW + timedelta(seconds=1)))
    assert reports.scheduler is not None
    assert reports.scheduler.pending == 5


def test_the_overview_and_the_stores() -> None:
    stores, total = folded(life(1) + life(2, "b", failed=True))
    shown = view.overview(total, scheduler(3), [report("w")], NOW, beside())
    assert (shown["pending"], shown["jobs"]["DONE"], shown["failedPercent"]) == (3, 1, 50.0)
    assert (shown["storesWarned"], shown["storesStopped"]) == (2, 5)
    assert (shown["oldestWaitSeconds"], shown["standins"]) == (9.0, True)
    rows = view.stores(stores, scheduler(3), spent=total["cost_nanousd"], first=10)
    assert [
        (row["store"], row["queued"], row["done"], row["failed"], row["budget"]) for row in rows
    ] == [
        ("a", 3, 1, 0, "warning"),
        ("b", 0, 0, 1, None),
    ]
    assert sum(row["costShare"] for row in rows) == pytest.approx(1)


def exposed(shown: Completeness = ALL, *, openmetrics: bool = False) -> str:
    board = LatestReports(silence_s=10)
    reports.add_report(replace(report("w"), partitions=(0, 1)))
    reports.add_report(scheduler(3))
    _, total = folded(life(1) + asked_again(2))
    return prometheus.render(total, reports, NOW, shown, openmetrics=openmetrics).decode()


def test_the_prometheus_text_can_be_read_and_is_what_was_declared() -> None:
    families = prometheus_text.read(exposed())
    declared = {metric.name: metric for metric in metric_definitions.METRICS}
    assert set(families) == set(declared)
    for name, family in families.items():
        assert (family.kind, family.help) == (declared[name].kind, declared[name].help)
        allowed = {*declared[name].labels, "le"}
        assert all({label for label, _ in labels} <= allowed for _, labels in family.samples)
    assert families["blogstream_jobs_pending"].value() == 3
    assert families["blogstream_store_budgets"].value(state="stopped") == 5
    assert families["blogstream_jobs"].value(state="FAILED") == 0
    assert families["blogstream_jobs_ended"].value("_total", state="FAILED") == 1
    assert families["blogstream_jobs_ended"].value("_total", state="DONE") == 2
    runs = families["blogstream_run_seconds"]
    assert (runs.value("_sum"), runs.value("_count")) == (60, 3)
    assert (
        families["blogstream_limiter_level"].value(
            provider="openai", model="m", resource="tokens", partition="1"
        )
        == 0.5
    )
    assert families["blogstream_lag_records"].value(stage="admit") == 4
    assert families["blogstream_dead_letters_open"].value() == 2


@pytest.mark.parametrize("gap", [{"missing": ("http://peer",)}, {"uncounted": (3, 4)}])
def test_what_would_look_like_a_reset_is_left_out_while_a_part_is_missing(
    gap: dict[str, Any],
) -> None:
    whole, part = (
        prometheus_text.read(exposed()),
        prometheus_text.read(exposed(replace(ALL, **gap))),
    )
    left_out = {name for name in whole if name not in part}
    assert left_out == {
        "blogstream_jobs",
        "blogstream_jobs_ended",
        "blogstream_tokens",
        "blogstream_images",
        "blogstream_cost_usd",
        "blogstream_in_doubt_calls",
        "blogstream_wait_seconds",
        "blogstream_run_seconds",
        "blogstream_malformed_events",
    }
    sums = {name for name, family in whole.items() if family.kind != "gauge"}
    assert sums - left_out == {"blogstream_slots_drifted"}, "the scheduler alone tells of it"
    missing = part["blogstream_metrics_processes"].value(state="missing")
    assert missing + part["blogstream_metrics_uncounted_partitions"].value() == len(*gap.values())


def test_the_texts_are_read_by_the_clients_own_parsers_too() -> None:
    plain = {family.name: family for family in text_string_to_metric_families(exposed())}
    read = openmetrics_families(exposed(openmetrics=True))  # type: ignore[no-untyped-call] # untyped in the library
    strict = {family.name for family in read}
    assert set(plain) == strict == {metric.name for metric in metric_definitions.METRICS}


def test_every_metric_has_a_unit_or_counts_and_says_what_it_means() -> None:
    for metric in metric_definitions.METRICS:
        assert metric.name.startswith("blogstream_")
        assert metric.help.endswith(".")
        assert "store" not in metric.labels
    assert len({metric.name for metric in metric_definitions.METRICS}) == len(
        metric_definitions.METRICS
    )


def test_a_store_with_many_jobs_stays_small_and_exact() -> None:
    table: dict[bytes, bytes] = {}
    shards, memory = ShardTable(table), a_memory()
    events = [event for number in range(3_000) for event in later(life(number), number)]
    for again in (events, events[:5_000]):  # those that are forgotten come once more
        for first in range(0, len(again), 200):
            count_events(again[first : first + 200], shards, local)
    assert local.stats.stores["a"]["counts"]["DONE"] == 3_000
    assert local.stats.total["cost_nanousd"] == 300_000
    assert max(len(orjson.loads(shard)["jobs"]) for shard in table.values()) <= 17


def test_fairness_is_shown_as_it_was_told() -> None:
    shown = view.overview(aggregate.empty(), scheduler(3), [], NOW, beside())["fairness"]
    assert (shown["jain"], shown["largestGapUsd"], shown["lightSlowdown"]) == (0.98, 2.0, 1.02)
    assert view.overview(aggregate.empty(), None, [], NOW, beside())["fairness"] is None


def test_a_workers_budget_is_divided_over_its_partitions_and_adds_up() -> None:
    one = replace(report("w1", queued=5), partitions=(3, 1, 2))
    other = replace(
        report("w2", used=50), partitions=(0, 4), limiters=(replace(one.limiters[0], level=-7.0),)
    )
    requests = rules.limiter_totals([one, other])["openai"]["m"]["requests"]
    parts = requests["byPartition"]
    assert [part["partition"] for part in parts] == [0, 1, 2, 3, 4]
    for name in ("sharePerMinute", "usedLastMinute", "level", "debt", "queued"):
        assert sum(part[name] for part in parts) == pytest.approx(requests[name], abs=1e-4), name
        assert sum(worker[name] for worker in requests["byWorker"]) == pytest.approx(
            requests[name]
        ), name
    assert {part["worker"] for part in parts if part["debt"]} == {"w2"}
    assert requests["unownedPartitions"] == list(range(5, 24))
