"""Draws a run as SVG: the queue, the posts in progress and done, and the use of the limits."""

from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from math import floor, log10

from sandbox.simulation.results.report import SimulationReport, format_duration
from sandbox.simulation.results.timeline import Sample

_WIDTH, _LEFT, _RIGHT, _TOP = 900, 70, 170, 56
_PANEL, _GAP = 150, 46
_COLOURS = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#c2255c")
_MOST_TICKS = 6
_MOST_USE_POINTS = 120
"""The use of a limit is a mean over a part of the time: single samples are noise."""
_TIME_STEPS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3_600 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 96, 168)),
)
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#343a40}.title{font-weight:600}"
    ".grid{stroke:#dee2e6}.line{fill:none;stroke-width:1.6}"
)

Point = tuple[float, float]
Series = tuple[str, Sequence[Point]]


def draw_report(report: SimulationReport) -> str:
    """Return the SVG document."""
    samples = report.queue
    panels = [
        (
            "posts waiting and in progress",
            [
                ("waiting", _points(samples, lambda one: one.waiting)),
                ("in progress", _points(samples, lambda one: one.running)),
            ],
        ),
        ("posts done", [("done", _points(samples, lambda one: one.done))]),
        (
            "use of the limits, 1 = the whole limit",
            [
                (limit.name, _use_points(samples, limit.name, limit.per_minute))
                for limit in report.limits
                if limit.charged
            ],
        ),
    ]
    end = max((one.at for one in samples), default=1.0) or 1.0
    height = _TOP + len(panels) * (_PANEL + _GAP)
    body = [_text(_LEFT, 20, _headline(report), "title")]
    for number, (title, series) in enumerate(panels):
        body += _draw_panel(title, series, _TOP + number * (_PANEL + _GAP), end)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">'
        f"<style>{_STYLE}</style>"
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>{"".join(body)}</svg>\n'
    )


def _headline(report: SimulationReport) -> str:
    return (
        f"{report.posts:,} posts of {report.stores:,} stores, {report.workers} workers:"
        f" done in {format_duration(report.makespan_s)}"
    )


def _points(samples: Sequence[Sample], value: Callable[[Sample], float]) -> list[Point]:
    return [(one.at, value(one)) for one in samples]


def _use_points(samples: Sequence[Sample], name: str, per_minute: float) -> list[Point]:
    """Return the used part of a limit between samples."""
    samples = samples[:: max(1, len(samples) // _MOST_USE_POINTS)]
    return [
        (
            later.at,
            (later.charged[name] - former.charged[name]) / (later.at - former.at) * 60 / per_minute,
        )
        for former, later in pairwise(samples)
        if later.at > former.at
    ]


def _draw_panel(title: str, series: Sequence[Series], top: float, end: float) -> list[str]:
    most = max((value for _, points in series for _, value in points), default=0.0)
    highest = _round_up(most)
    right = _WIDTH - _RIGHT
    drawn = [_text(_LEFT, top - 8, title, "title"), *_draw_grid(top, highest, end)]
    for number, (name, points) in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(
            f"{_LEFT + at / end * (right - _LEFT):.1f},{top + (1 - value / highest) * _PANEL:.1f}"
            for at, value in points
        )
        drawn.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        y = top + 14 + 18 * number
        drawn.append(f'<rect x="{right + 12}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        drawn.append(_text(right + 28, y, name))
    return drawn


def _draw_grid(top: float, highest: float, end: float) -> list[str]:
    bottom, right = top + _PANEL, _WIDTH - _RIGHT
    drawn = []
    for part in (0.0, 0.5, 1.0):
        y = bottom - part * _PANEL
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:g}" y2="{y:g}"/>')
        drawn.append(_text(_LEFT - 8, y + 4, _format_value(part * highest), anchor="end"))
    step = next((one for one in _TIME_STEPS_S if end / one <= _MOST_TICKS), _TIME_STEPS_S[-1])
    for number in range(int(end // step) + 1):
        x = _LEFT + number * step / end * (right - _LEFT)
        drawn.append(_text(x, bottom + 16, _format_time(number * step), anchor="middle"))
    return drawn


def _round_up(value: float) -> float:
    """Return the next larger number of the form 1, 2, 4, 5 or 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next(one * power for one in (1, 2, 4, 5, 10) if one * power >= value * 0.999)


def _format_time(seconds: float) -> str:
    for unit, size in (("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _format_value(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
