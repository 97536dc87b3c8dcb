"""The Prometheus text, made at each scrape from the same aggregates as the JSON."""

from collections.abc import Iterable
from datetime import datetime
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector, CollectorRegistry

from services.metrics import metric_defs as defs
from services.metrics.board import Board
from services.metrics.rules import histogram, limits
from services.metrics.rules.fold import Aggregate
from shared.job import Status

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def render(total: Aggregate, board: Board, now: datetime, *, openmetrics: bool) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(list(_families(total, board, now))))
    if openmetrics:
        text: bytes = openmetrics_text(registry)  # type: ignore[no-untyped-call] # untyped in the library
        return text
    return prometheus_text(registry)


class _Collected(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(total: Aggregate, board: Board, now: datetime) -> Iterable[Metric]:
    scheduler, alive = board.scheduler, board.alive(now)
    if scheduler is not None:
        yield _gauge(defs.PENDING, {(): scheduler.pending})
        yield _gauge(defs.IN_FLIGHT, {(): scheduler.in_flight})
        yield _gauge(defs.DUE, {(): scheduler.pending - scheduler.delayed})
        yield _gauge(defs.SCHEDULER_AGE, {(): (now - scheduler.at).total_seconds()})
        oldest = scheduler.oldest_pending_at
        yield _gauge(defs.OLDEST, {(): (now - oldest).total_seconds() if oldest else 0})
        yield _counter(defs.DRIFTED, {(): scheduler.drifted})
        if scheduler.fairness is not None:
            yield _gauge(defs.JAIN, {(): scheduler.fairness.jain})
            yield _gauge(defs.SLOWDOWN, {(): scheduler.fairness.light_slowdown or 1.0})
    counts = total["counts"]
    yield _gauge(defs.JOBS, {(status.value,): counts.get(status.value, 0) for status in Status})
    ended = (Status.DONE, Status.FAILED)
    yield _counter(defs.ENDED, {(status.value,): counts.get(status.value, 0) for status in ended})
    yield _counter(defs.TOKENS, {("input",): total["input_tokens"], ("output",): total["output_tokens"]})
    yield _counter(defs.IMAGES, {(): total["images"]})
    yield _counter(defs.COST, {(): total["cost_nanousd"] / 1e9})
    yield _counter(defs.IN_DOUBT, {(): total.get("in_doubt", 0)})
    yield _histogram(defs.WAIT, total["wait"])
    yield _histogram(defs.RUN, total["run"])
    resources = [
        (provider, resource, state)
        for provider, models in limits.totals(alive).items()
        for by_resource in models.values()
        for resource, state in by_resource.items()
    ]
    yield _gauge(defs.LIMITER_USE, {(p, r): state["usagePercent"] / 100 for p, r, state in resources})
    yield _gauge(defs.LIMITER_QUEUE, {(p, r): state["queued"] for p, r, state in resources})
    yield _gauge(defs.CIRCUIT, {(p, r): float(state["circuitOpen"]) for p, r, state in resources})
    yield _gauge(defs.WORKERS, {(): len(alive)})
    running = sum(report.running for report in alive)
    slots = sum(report.slots for report in alive)
    yield _gauge(defs.SLOTS, {("running",): running, ("free",): max(0, slots - running)})
    yield _counter(defs.MALFORMED, {(): board.malformed})


def _gauge(metric: defs.Metric, values: dict[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _counter(metric: defs.Metric, values: dict[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: defs.Metric, counts: list[int]) -> Metric:
    bounds = [str(float(bound)) for bound in histogram.BOUNDS] + ["+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
    family = HistogramMetricFamily(metric.name, metric.help)
    family.add_metric([], buckets=buckets, sum_value=None)
    return family
