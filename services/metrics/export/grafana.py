"""Grafana's reports, from the declarations: first a tile for every alert, coloured by its levels, then every metric."""

from collections.abc import Sequence
from typing import Any

from services.metrics.alerts.definitions import ALERTS
from services.metrics.alerts.rules import Alert, Severity, BadSide
from services.metrics.export.metric_definitions import METRICS, Metric
from services.metrics.export.promql import largest, quantile, series

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_COLOURS = {Severity.WARNING: "orange", Severity.CRITICAL: "red"}
_GOOD = "green"
_UNITS = {"seconds": "s", "percent": "percent"}
_SUFFIXES = {"_seconds": "s", "_ratio": "percentunit", "_usd": "currencyUSD"}
_COUNTED = {"jobs", "limits", "workers", "slots", "calls", "records"}
_RATE_MINUTES = 5
_SHARES = (0.5, 0.95, 0.99)

Panel = dict[str, Any]


def board() -> dict[str, Any]:
    panels = [
        _row("What is judged"),
        *(_tile(alert) for alert in ALERTS),
        _row("All metrics"),
        *(_graph(metric) for metric in METRICS),
    ]
    return {
        "title": "blogstream",
        "uid": "blogstream",
        "description": "Made by `python -m services.metrics.export`: change the declarations, and run it.",
        "tags": ["blogstream"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                }
            ]
        },
        "panels": _placed(panels),
    }


def _row(title: str) -> Panel:
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "panels": [],
        "gridPos": {"w": _COLUMNS, "h": 1},
    }


def _tile(alert: Alert) -> Panel:
    return {
        "type": "stat",
        "title": alert.name,
        "description": alert.advice,
        "datasource": _DATASOURCE,
        "gridPos": {"w": 8, "h": 4},
        "targets": [_target(alert.promql, "", "A")],
        "fieldConfig": {
            "defaults": {
                "unit": _UNITS.get(alert.unit, "short"),
                "color": {"mode": "thresholds"},
                "thresholds": {"mode": "absolute", "steps": _steps(alert)},
            },
            "overrides": [],
        },
        "options": {
            "graphMode": "area",
            "colorMode": "background",
            "reduceOptions": {"calcs": ["lastNotNull"]},
        },
    }


def _steps(alert: Alert) -> list[dict[str, Any]]:
    """Grafana takes the colour of the last step that is at or below the value; the first has none below it."""
    if alert.bad_side is BadSide.ABOVE:
        least = 1 if alert.unit in _COUNTED else 0  # "over 1000 jobs" is from 1001 on
        return [
            {"color": _GOOD, "value": None},
            *(
                {"color": _COLOURS[level.severity], "value": level.raise_at + least}
                for level in alert.levels
            ),
        ]
    worst_first = alert.levels[::-1]
    colours = [_COLOURS[level.severity] for level in worst_first] + [_GOOD]
    return [
        {"color": colour, "value": value}
        for colour, value in zip(
            colours, [None, *(level.raise_at for level in worst_first)], strict=True
        )
    ]


def _graph(metric: Metric) -> Panel:
    per_minute = " a minute" if metric.kind == "counter" else ""
    unit = next(
        (unit for suffix, unit in _SUFFIXES.items() if metric.name.endswith(suffix)), "short"
    )
    return {
        "type": "timeseries",
        "title": metric.name.removeprefix("blogstream_").replace("_", " ") + per_minute,
        "description": metric.help,
        "datasource": _DATASOURCE,
        "gridPos": {"w": 8, "h": 7},
        "targets": _targets(metric),
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        },
    }


def _targets(metric: Metric) -> list[dict[str, Any]]:
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    if metric.kind == "histogram":
        return [
            _target(quantile(metric, share, _RATE_MINUTES), f"p{share * 100:g}", ref)
            for share, ref in zip(_SHARES, "ABC", strict=True)
        ]
    if metric.kind == "counter":
        return [
            _target(
                f"60 * {largest(metric, f'rate({series(metric)}[{_RATE_MINUTES}m])')}", legend, "A"
            )
        ]
    return [_target(largest(metric, series(metric)), legend, "A")]


def _target(expr: str, legend: str, ref: str) -> dict[str, Any]:
    return {
        "refId": ref,
        "datasource": _DATASOURCE,
        "expr": expr,
        "legendFormat": legend or "__auto",
    }


def _placed(panels: Sequence[Panel]) -> list[Panel]:
    """Every panel with an id and its place: from left to right, and on; a row begins a line of its own."""
    placed: list[Panel] = []
    x = y = line = 0
    for number, panel in enumerate(panels, start=1):
        size = panel["gridPos"]
        if x + size["w"] > _COLUMNS:
            x, y, line = 0, y + line, 0
        placed.append(panel | {"id": number, "gridPos": {"x": x, "y": y, **size}})
        x, line = x + size["w"], max(line, size["h"])
    return placed
