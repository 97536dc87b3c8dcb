"""The files in `deploy/` match the declarations, and name only exposed metrics."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from services.metrics.alerts.definitions import ALERTS
from services.metrics.alerts.rules import Alert, Severity
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.export import grafana, prometheus
from services.metrics.export.files import generate_files
from services.metrics.export.metric_definitions import ENDED, METRICS
from services.metrics.export.prometheus_rules import rule_name
from services.metrics.export.promql import series
from tests.support.metrics_events import (
    NOW,
    count_in_new_table,
    job_events,
    make_completeness,
    make_scheduler_report,
    make_worker_report,
)

DEPLOY = Path(__file__).parents[3] / "deploy"
PROMETHEUS_OWN = {"ALERTS": {"alertname", "severity", "alertstate"}}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(generate_files()["prometheus/rules.yml"])["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(generate_files()["grafana/blogstream.json"])[
        "panels"
    ]
    return found


def expressions() -> list[str]:
    shown = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    return [rule["expr"] for rule in rules()] + shown


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def visit(part: Any) -> None:
        if isinstance(part, promql_parser.MatrixSelector):
            found.append(part.vector_selector)
        elif isinstance(part, promql_parser.VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(expression), visit)
    assert found
    return iter(found)


def exposed_series() -> dict[str, set[str]]:
    """Return every exposed series and its labels, as Prometheus' parser reads the text."""
    reports = LatestReports(silence_s=10)
    reports.add_report(make_worker_report("w"))
    reports.add_report(make_scheduler_report(3))
    text = prometheus.render_metrics(
        count_in_new_table(job_events(1))[1], reports, NOW, make_completeness(), openmetrics=False
    ).decode()
    known: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    return known


@pytest.mark.parametrize("name", generate_files())
def test_committed_file_is_up_to_date(name: str) -> None:
    hint = "run `python -m services.metrics.export`"
    assert (DEPLOY / name).read_text(encoding="utf-8") == generate_files()[name], hint


@pytest.mark.parametrize("expression", expressions())
def test_expression_is_promql_over_exposed_series(expression: str) -> None:
    known = exposed_series() | PROMETHEUS_OWN
    for selector in selectors(expression):
        assert selector.name in known
        assert {matcher.name for matcher in selector.matchers.matchers} <= known[selector.name]


@pytest.mark.parametrize("expression", expressions())
def test_expression_keeps_cells_apart(expression: str) -> None:
    """Several cells at one Prometheus: without the label, the larger cell would hide the other."""
    aggregations = re.findall(r"\b(?:max|min|sum)\b(?: by \(([^)]*)\))?", expression)
    matchings = re.findall(r"\bon ?\(([^)]*)\)", expression)
    assert aggregations
    assert all("cell" in labels.split(", ") for labels in (*aggregations, *matchings))


def test_every_metric_is_exposed_and_on_the_dashboard() -> None:
    known, shown = (
        exposed_series(),
        " ".join(target["expr"] for panel in panels() for target in panel.get("targets", ())),
    )
    for metric in METRICS:
        assert series(metric) in known
        assert re.search(rf"\b{series(metric)}\b", shown)
    with pytest.raises(ValueError, match="has no label store"):
        series(ENDED, store="a")


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alert_has_a_rule_for_each_level(alert: Alert) -> None:
    own = [rule for rule in rules() if rule["alert"] == rule_name(alert)]
    assert [rule["labels"]["severity"] for rule in own] == [
        level.severity for level in alert.levels
    ]
    for rule, level in zip(own, alert.levels, strict=True):
        assert f" {alert.bad_side} {level.raise_at:g}" in rule["expr"]
        assert (
            level.raise_at == level.clear_at
        ) or f" {alert.bad_side} {level.clear_at:g} and" in rule["expr"]
        assert (rule["for"], rule["keep_firing_for"]) == (
            f"{alert.raise_after_s:g}s",
            f"{alert.clear_after_s:g}s",
        )
        assert rule["annotations"]["description"] == alert.advice
    (tile,) = [panel for panel in panels() if panel["title"] == alert.name]
    colours = {step["color"] for step in tile["fieldConfig"]["defaults"]["thresholds"]["steps"]}
    assert len(colours) == len(alert.levels) + 1


def test_rules_have_the_form_of_prometheus() -> None:
    names = [(rule["alert"], rule["labels"]["severity"]) for rule in rules()]
    assert len(names) == len(set(names)) == sum(len(alert.levels) for alert in ALERTS) + 1
    for rule in rules():
        assert set(rule) == {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
        assert rule["labels"]["severity"] in set(Severity)
        assert all(re.fullmatch(r"\d+s", rule[time]) for time in ("for", "keep_firing_for"))
        assert set(rule["annotations"]) == {"summary", "description"}


def test_dashboard_panels_do_not_overlap() -> None:
    dashboard = grafana.build_dashboard()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert ids == list(range(1, len(ids) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (column, line)
            for column in range(place["x"], place["x"] + place["w"])
            for line in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
