"""Prometheus' alerting rules, from the alerts' declarations."""

import json
from collections.abc import Iterator

from services.metrics.alerts.definitions import ALERTS
from services.metrics.alerts.rules import SECONDS, Alert, AlertLevel
from services.metrics.export import metric_definitions as defs
from services.metrics.export.promql import series

_HEAD = """\
# Made by `python -m services.metrics.export` from services/metrics/alerts/definitions.py: change that, and run it.
groups:
  - name: blogstream
    rules:
"""


def text() -> str:
    """YAML; every string in it is quoted as JSON has it."""
    return _HEAD + "".join([*_rules(), _absent()])


def rule_name(alert: Alert) -> str:
    return "Blogstream" + "".join(word.title() for word in alert.name.split("-"))


def expression(alert: Alert, level: AlertLevel) -> str:
    """True beyond `raise_at`; once it fires, until the value is back at `clear_at`, as the service itself judges."""
    worse, value = alert.bad_side, f"({alert.promql})" if " " in alert.promql else alert.promql
    raised = f"{value} {worse} {level.raise_at:g}"
    if level.raise_at == level.clear_at:
        return raised
    firing = (
        f'ALERTS{{alertname="{rule_name(alert)}",severity="{level.severity}",alertstate="firing"}}'
    )
    return f"{raised} or ({value} {worse} {level.clear_at:g} and on() {firing})"


def _rules() -> Iterator[str]:
    for alert in ALERTS:
        said_as = "humanizeDuration" if alert.unit == SECONDS else "humanize"
        summary = alert.summary.format(value=f"{{{{ $value | {said_as} }}}}")
        for level in alert.levels:
            yield _rule(
                rule_name(alert),
                expression(alert, level),
                severity=level.severity,
                summary=summary,
                description=alert.advice,
                raise_after_s=alert.raise_after_s,
                clear_after_s=alert.clear_after_s,
            )


def _absent() -> str:
    """What the service cannot say of itself."""
    return _rule(
        "BlogstreamMetricsAbsent",
        f"absent({series(defs.WORKERS)})",
        severity="critical",
        summary="the metrics service is not heard",
        raise_after_s=60,
        clear_after_s=0,
        description="No alert of blogstream can be trusted while its numbers are missing.",
    )


def _rule(
    name: str,
    expr: str,
    *,
    severity: str,
    summary: str,
    description: str,
    raise_after_s: float,
    clear_after_s: float,
) -> str:
    return (
        f"      - alert: {name}\n"
        f"        expr: {_quoted(expr)}\n"
        f"        for: {raise_after_s:g}s\n"
        f"        keep_firing_for: {clear_after_s:g}s\n"
        f"        labels:\n"
        f"          severity: {severity}\n"
        f"        annotations:\n"
        f"          summary: {_quoted(summary)}\n"
        f"          description: {_quoted(description)}\n"
    )


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
