"""The Prometheus and OpenMetrics texts: content, form, and incomplete answers."""

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.monitored_values import Completeness
from services.metrics.export import metric_definitions, prometheus
from tests.support import prometheus_text
from tests.support.metrics_events import (
    NOW,
    count_in_new_table,
    job_events,
    make_completeness,
    make_scheduler_report,
    make_worker_report,
    retried_job_events,
)

COMPLETE = make_completeness()


def render_text(completeness: Completeness = COMPLETE, *, openmetrics: bool = False) -> str:
    reports = LatestReports(silence_s=10)
    reports.add_report(replace(make_worker_report("w"), partitions=(0, 1)))
    reports.add_report(make_scheduler_report(3))
    _, total = count_in_new_table(job_events(1) + retried_job_events(2))
    return prometheus.render_metrics(
        total, reports, NOW, completeness, openmetrics=openmetrics
    ).decode()


def test_prometheus_text_matches_declarations() -> None:
    families = prometheus_text.read(render_text())
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
def test_counters_are_left_out_while_a_part_is_missing(
    gap: dict[str, Any],
) -> None:
    complete, part = (
        prometheus_text.read(render_text()),
        prometheus_text.read(render_text(replace(COMPLETE, **gap))),
    )
    left_out = {name for name in complete if name not in part}
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
    sums = {name for name, family in complete.items() if family.kind != "gauge"}
    assert sums - left_out == {"blogstream_slots_drifted"}, "comes from the scheduler"
    missing = part["blogstream_metrics_processes"].value(state="missing")
    assert missing + part["blogstream_metrics_uncounted_partitions"].value() == len(*gap.values())


def test_official_parsers_read_both_formats() -> None:
    plain = {family.name: family for family in text_string_to_metric_families(render_text())}
    read = openmetrics_families(render_text(openmetrics=True))  # type: ignore[no-untyped-call] # untyped in the library
    strict = {family.name for family in read}
    assert set(plain) == strict == {metric.name for metric in metric_definitions.METRICS}


def test_every_metric_has_prefix_and_help() -> None:
    for metric in metric_definitions.METRICS:
        assert metric.name.startswith("blogstream_")
        assert metric.help.endswith(".")
        assert "store" not in metric.labels
    assert len({metric.name for metric in metric_definitions.METRICS}) == len(
        metric_definitions.METRICS
    )
