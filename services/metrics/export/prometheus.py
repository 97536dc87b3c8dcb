"""Renders the Prometheus text at each scrape, from the same aggregates as the JSON.

The counts of jobs are left out while a part of them is missing. Gauges show how much is missing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest as prometheus_text
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.registry import Collector, CollectorRegistry

from services.metrics.cluster import rules
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.monitored_values import Completeness
from services.metrics.counting.rules import aggregate, histogram
from services.metrics.counting.rules.aggregate import Aggregate
from services.metrics.export import metric_definitions as defs
from shared.domain.job import Status
from shared.domain.messages import SchedulerReport, WorkerReport

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def render_metrics(
    total: Aggregate,
    reports: LatestReports,
    now: datetime,
    completeness: Completeness,
    *,
    openmetrics: bool,
) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_FixedCollector(list(_families(total, reports, now, completeness))))
    if openmetrics:
        text: bytes = openmetrics_text(registry)  # type: ignore[no-untyped-call] # untyped in the library
        return text
    return prometheus_text(registry)


class _FixedCollector(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(
    total: Aggregate, reports: LatestReports, now: datetime, completeness: Completeness
) -> Iterator[Metric]:
    alive = reports.alive_workers(now)
    if reports.scheduler is not None:
        yield from _scheduler_families(reports.scheduler, now)
    # A part of the counts would look like reset counters, and rate() would count them again.
    if completeness.complete:
        yield from _job_families(total)
        yield _counter(defs.MALFORMED, {(): completeness.malformed})
    yield from _limiter_families(alive, now)
    yield _gauge(defs.WORKERS, {(): len(alive)})
    running = sum(report.running for report in alive)
    slots = sum(report.total_slots for report in alive)
    yield _gauge(defs.SLOTS, {("running",): running, ("free",): max(0, slots - running)})
    yield from _monitored_families(completeness)


def _scheduler_families(scheduler: SchedulerReport, now: datetime) -> Iterator[Metric]:
    oldest, fairness = scheduler.oldest_pending_at, scheduler.fairness
    yield _gauge(defs.PENDING, {(): scheduler.pending})
    yield _gauge(defs.DUE, {(): scheduler.pending - scheduler.delayed})
    yield _gauge(defs.IN_FLIGHT, {(): scheduler.in_flight})
    yield _gauge(defs.OLDEST, {(): max((now - oldest).total_seconds(), 0) if oldest else 0})
    yield _gauge(
        defs.BUDGETS,
        {("warning",): scheduler.stores_warned, ("stopped",): scheduler.stores_stopped},
    )
    yield _counter(defs.DRIFTED, {(): scheduler.drifted})
    yield _gauge(defs.SCHEDULER_AGE, {(): max((now - scheduler.at).total_seconds(), 0)})
    if fairness is not None:
        yield _gauge(defs.JAIN, {(): fairness.jain})
        yield _gauge(defs.GAP, {(): fairness.largest_gap_nanousd / 1e9})
        yield _gauge(defs.SLOWDOWN, {(): fairness.light_slowdown or 1.0})


def _job_families(total: Aggregate) -> Iterator[Metric]:
    counts = total["counts"]
    yield _gauge(defs.JOBS, {(status.value,): counts.get(status.value, 0) for status in Status})
    ended = aggregate.ends_by_status(total)
    yield _counter(
        defs.ENDED,
        {(status.value,): ended.get(status.value, 0) for status in (Status.DONE, Status.FAILED)},
    )
    yield _counter(
        defs.TOKENS, {("input",): total["input_tokens"], ("output",): total["output_tokens"]}
    )
    yield _counter(defs.IMAGES, {(): total["images"]})
    yield _counter(defs.COST, {(): total["cost_nanousd"] / 1e9})
    yield _counter(defs.IN_DOUBT, {(): total["in_doubt"]})
    yield _histogram(defs.WAIT, total["wait"], total["wait_ms"] / 1000)
    yield _histogram(defs.RUN, total["run"], total["run_ms"] / 1000)


def _limiter_families(alive: Sequence[WorkerReport], now: datetime) -> Iterator[Metric]:
    states = {
        (provider, model, resource): total
        for provider, model, resource, total in rules.iterate_totals(alive)
    }

    def by_limit(metric: defs.MetricDefinition, value: Callable[[dict[str, Any]], float]) -> Metric:
        return _gauge(metric, {labels: value(state) for labels, state in states.items()})

    def by_partition(metric: defs.MetricDefinition, name: str) -> Metric:
        # While a partition moves, two workers may report it.
        values: dict[tuple[str, ...], float] = defaultdict(float)
        for labels, state in states.items():
            for part in state["byPartition"]:
                values[*labels, str(part["partition"])] += part[name]
        return _gauge(metric, values)

    yield by_limit(defs.LIMITER_LIMIT, lambda state: state["limitPerMinute"] / 60)
    yield by_limit(defs.LIMITER_USE, lambda state: state["usagePercent"] / 100)
    yield by_limit(defs.LIMITER_QUEUE, lambda state: state["queued"])
    yield by_limit(defs.LIMITER_UNOWNED, lambda state: len(state["unownedPartitions"]))
    yield by_limit(defs.COOLING, lambda state: _seconds_until(state["coolingUntil"], now))
    yield by_limit(defs.CIRCUIT, lambda state: float(state["circuitOpen"]))
    yield by_partition(defs.LIMITER_LEVEL, "level")
    yield by_partition(defs.LIMITER_DEBT, "debt")


def _seconds_until(moment: datetime | None, now: datetime) -> float:
    return max((moment - now).total_seconds(), 0.0) if moment is not None else 0.0


def _monitored_families(completeness: Completeness) -> Iterator[Metric]:
    monitored = completeness.monitored
    yield _gauge(defs.LAG, {(stage,): records for stage, records in monitored.lag.items()})
    if monitored.dead_letters is not None:
        yield _gauge(defs.DEAD_LETTERS, {(): monitored.dead_letters})
    if monitored.drift is not None:
        yield _gauge(defs.DRIFT_JOBS, {(): monitored.drift.jobs})
        yield _gauge(defs.DRIFT_COST, {(): monitored.drift.cost_nanousd / 1e9})
    yield _gauge(
        defs.PROCESSES,
        {("answers",): completeness.processes, ("missing",): len(completeness.missing)},
    )
    yield _gauge(defs.UNCOUNTED, {(): len(completeness.uncounted)})


def _gauge(metric: defs.MetricDefinition, values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _counter(metric: defs.MetricDefinition, values: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _histogram(metric: defs.MetricDefinition, counts: list[int], seconds: float) -> Metric:
    bounds = [str(float(bound)) for bound in histogram.BOUNDS] + ["+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
    family = HistogramMetricFamily(metric.name, metric.help)
    family.add_metric([], buckets=buckets, sum_value=seconds)
    return family
