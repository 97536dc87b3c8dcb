"""Reports of workers and scheduler as limiter totals, overview and store rows."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.metrics.cluster import rules, view
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.counting.rules import aggregate
from shared.domain.messages import WorkerReport
from tests.support.metrics_events import (
    NOW,
    count_in_new_table,
    job_events,
    make_completeness,
    make_scheduler_report,
    make_worker_report,
)


def test_contract_metrics_have_four_numbers() -> None:
    reports = [make_worker_report("w1"), make_worker_report("w2")]
    assert view.contract_metrics(make_scheduler_report(7), reports) == {
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
    requests = rules.limiter_totals([make_worker_report("w1"), make_worker_report("w2", used=50)])[
        "openai"
    ]["m"]["requests"]
    assert (
        requests["usedLastMinute"]
        == 150
        == sum(worker["usedLastMinute"] for worker in requests["byWorker"])
    )
    assert requests["sharePerMinute"] == requests["limitPerMinute"] == 500
    assert requests["usagePercent"] == 30.0


def test_bottleneck_of_waiting_calls_is_named() -> None:
    def named(*reports: WorkerReport) -> list[tuple[str, str]]:
        return [
            (one["model"], one["by"])
            for one in rules.find_bottlenecks(rules.limiter_totals(reports), NOW)
        ]

    def changed(index: int, **to: Any) -> WorkerReport:
        states = list(make_worker_report("w").limiters)
        states[index] = replace(states[index], **to)
        return replace(make_worker_report("w"), limiters=tuple(states))

    assert named() == named(make_worker_report("w", queued=0)) == []
    assert named(make_worker_report("w")) == [("m", "tokens")], (
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
        for state in rules.limiter_totals([make_worker_report("w1"), make_worker_report("w2")])[
            "openai"
        ]["m"].values()
    ]
    assert binding == [False, True]


def test_silent_worker_is_listed_as_gone() -> None:
    reports = LatestReports(silence_s=10)
    reports.add_report(make_worker_report("here"))
    reports.add_report(make_worker_report("gone", at=NOW - timedelta(seconds=11)))
    reports.add_report(make_worker_report("here", at=NOW - timedelta(seconds=5)))
    assert [worker.worker for worker in reports.alive_workers(NOW)] == ["here"]
    assert [worker.worker for worker in reports.silent_workers(NOW)] == ["gone"]
    assert reports.alive_workers(NOW)[0].at == NOW


def test_report_of_newer_leader_wins() -> None:
    reports = LatestReports(silence_s=10)
    reports.add_report(make_scheduler_report(5, epoch=2))
    reports.add_report(make_scheduler_report(9, epoch=1, at=NOW + timedelta(seconds=1)))
    assert reports.scheduler is not None
    assert reports.scheduler.pending == 5


def test_overview_and_store_rows() -> None:
    stores, total = count_in_new_table(job_events(1) + job_events(2, "b", failed=True))
    shown = view.overview(
        total, make_scheduler_report(3), [make_worker_report("w")], NOW, make_completeness()
    )
    assert (shown["pending"], shown["jobs"]["DONE"], shown["failedPercent"]) == (3, 1, 50.0)
    assert (shown["storesWarned"], shown["storesStopped"]) == (2, 5)
    assert (shown["oldestWaitSeconds"], shown["standins"]) == (9.0, True)
    assert shown["standinProviders"] == ["replicate"]
    rows = view.stores(stores, make_scheduler_report(3), spent=total["cost_nanousd"], limit=10)
    assert [
        (row["store"], row["queued"], row["done"], row["failed"], row["budget"]) for row in rows
    ] == [
        ("a", 3, 1, 0, "warning"),
        ("b", 0, 0, 1, None),
    ]
    assert sum(row["costShare"] for row in rows) == pytest.approx(1)


def test_overview_shows_reported_fairness() -> None:
    shown = view.overview(
        aggregate.empty(), make_scheduler_report(3), [], NOW, make_completeness()
    )["fairness"]
    assert (shown["jain"], shown["largestGapUsd"], shown["lightSlowdown"]) == (0.98, 2.0, 1.02)
    assert view.overview(aggregate.empty(), None, [], NOW, make_completeness())["fairness"] is None


def test_worker_quota_is_divided_over_partitions() -> None:
    one = replace(make_worker_report("w1", queued=5), partitions=(3, 1, 2))
    other = replace(
        make_worker_report("w2", used=50),
        partitions=(0, 4),
        limiters=(replace(one.limiters[0], level=-7.0),),
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


def test_partitions_without_quota_are_neither_listed_nor_missing() -> None:
    """Three of 24 partitions carry the quota; the worker owns two of them, and nobody the third."""
    report = make_worker_report("w")
    state = replace(report.limiters[0], partitions=(0, 6), carrying=3, share=40.0)
    report = replace(report, partitions=tuple(range(12)), limiters=(state,))
    total = rules.limiter_totals([report])[state.provider][state.model][state.resource]
    assert [part["partition"] for part in total["byPartition"]] == [0, 6]
    assert [part["sharePerMinute"] for part in total["byPartition"]] == [20, 20]
    assert total["unownedPartitions"] == [12]
    assert total["byWorker"][0]["partitions"] == (0, 6)


def test_worker_without_quota_has_no_rows() -> None:
    report = make_worker_report("w")
    state = replace(report.limiters[0], partitions=(), carrying=1, share=0.0)
    total = rules.limiter_totals([replace(report, limiters=(state,))])[state.provider]
    assert total[state.model][state.resource]["byPartition"] == []
    assert total[state.model][state.resource]["unownedPartitions"] == [0]
