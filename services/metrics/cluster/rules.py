"""Adds up the workers' reports about the providers' rate limits.

A level below zero is debt. A worker's numbers are divided equally over its partitions that carry
the quota, because it reports one sum for all of them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from shared.domain.messages import LimiterReport, Need, WorkerReport
from shared.domain.quota_layout import partition_order

LimiterStates = list[tuple[WorkerReport, LimiterReport]]


def limiter_totals(reports: Iterable[WorkerReport]) -> dict[str, Any]:
    """Return {provider: {model: {resource: {limitPerMinute, usedLastMinute, …, byPartition}}}}."""
    by_limit: dict[tuple[str, str, str], LimiterStates] = defaultdict(list)
    for report in reports:
        for state in report.limiters:
            by_limit[state.provider, state.model, state.resource].append((report, state))
    totals: dict[str, Any] = {}
    for (provider, model, resource), states in sorted(by_limit.items()):
        totals.setdefault(provider, {}).setdefault(model, {})[resource] = _add_up(states)
    for resources in (resources for models in totals.values() for resources in models.values()):
        resources[_scarcest(resources)]["binds"] = any(
            state["queued"] for state in resources.values()
        )
    return totals


def _scarcest(resources: dict[str, dict[str, Any]]) -> str:
    """Return the resource with the smallest level relative to its share of a minute.

    A call waits for all of a model's resources at once, hence for this one.
    """
    return min(
        resources,
        key=lambda name: resources[name]["level"] / (resources[name]["sharePerMinute"] or 1),
    )


def find_bottlenecks(totals: dict[str, Any], now: datetime) -> list[dict[str, str]]:
    """Return why calls wait, by model: `unavailable`, `cooling down`, or the binding resource.

    `totals` comes from `limiter_totals`.
    """
    found = []
    for provider, models in totals.items():
        for model, resources in models.items():
            if (cause := _find_bottleneck(resources, now)) is not None:
                found.append({"provider": provider, "model": model, "by": cause})
    return found


def _find_bottleneck(resources: dict[str, dict[str, Any]], now: datetime) -> str | None:
    states = resources.values()
    if any(state["circuitOpen"] for state in states):
        return "unavailable"
    if any(state["coolingUntil"] is not None and state["coolingUntil"] > now for state in states):
        return "cooling down"
    return next((name for name, state in resources.items() if state["binds"]), None)


def iterate_totals(
    reports: Iterable[WorkerReport],
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield (provider, model, resource, its total from `limiter_totals`)."""
    for provider, models in limiter_totals(reports).items():
        for model, resources in models.items():
            for resource, total in resources.items():
                yield provider, model, resource, total


def usage_percent(reports: Sequence[WorkerReport], need: Need, resource: str) -> float:
    """Return the use of a limit in the last minute, in percent; the highest of all accounts."""
    accounts = {
        state.provider for report in reports for state in report.limiters if state.need is need
    }
    return max(
        (
            total["usagePercent"]
            for provider, _, name, total in iterate_totals(reports)
            if provider in accounts and name == resource
        ),
        default=0.0,
    )


def queue_length(reports: Iterable[WorkerReport], need: Need) -> int:
    """Return the number of calls that wait for a need, at all accounts.

    A call waits for all resources at once and counts once.
    """
    waiting: dict[tuple[str, str, str], int] = {}
    for report in reports:
        for state in (state for state in report.limiters if state.need is need):
            limiter = (report.worker, state.provider, state.model)
            waiting[limiter] = max(waiting.get(limiter, 0), state.queued)
    return sum(waiting.values())


def _add_up(states: LimiterStates) -> dict[str, Any]:
    limit = max(state.limit for _, state in states)
    used = sum(state.used for _, state in states)
    partitions = sorted(
        (part for pair in states for part in _partition_rows(*pair)),
        key=lambda part: part["partition"],
    )
    return {
        "limitPerMinute": limit,
        "sharePerMinute": round(sum(state.share for _, state in states), 3),
        "usedLastMinute": used,
        "usagePercent": round(100 * used / limit, 2) if limit else 0.0,
        "level": round(sum(state.level for _, state in states), 3),
        "debt": round(sum(max(-state.level, 0.0) for _, state in states), 3),
        "queued": sum(state.queued for _, state in states),
        "longestWaitS": max((state.wait_s or 0.0 for _, state in states), default=0.0),
        "coolingUntil": max(
            (state.cooling_until for _, state in states if state.cooling_until), default=None
        ),
        "circuitOpen": any(state.circuit_open for _, state in states),
        "binds": False,
        "byWorker": [_worker_row(report, state) for report, state in states],
        "byPartition": partitions,
        "unownedPartitions": sorted(
            _carrying_partitions(states) - {part["partition"] for part in partitions}
        ),
    }


def _carrying_partitions(states: LimiterStates) -> set[int]:
    """Return the partitions that carry the quota, by the newest report."""
    report, state = max(states, key=lambda pair: pair[0].at)
    return set(partition_order(report.total_partitions)[: state.carrying])


def _owned_partitions(report: WorkerReport, state: LimiterReport) -> tuple[int, ...]:
    return report.partitions if state.partitions is None else state.partitions


def _worker_row(report: WorkerReport, state: LimiterReport) -> dict[str, Any]:
    return {
        "worker": report.worker,
        "partitions": _owned_partitions(report, state),
        "sharePerMinute": round(state.share, 3),
        "usedLastMinute": state.used,
        "level": state.level,
        "debt": max(-state.level, 0.0),
        "queued": state.queued,
        "waitS": state.wait_s,
        "pace": state.pace,
        "coolingUntil": state.cooling_until,
        "circuitOpen": state.circuit_open,
    }


def _partition_rows(report: WorkerReport, state: LimiterReport) -> list[dict[str, Any]]:
    """Divide a worker's numbers over its partitions.

    The rows add up to the worker's numbers; `queued` stays whole.
    """
    owned = _owned_partitions(report, state)
    parts = len(owned)
    return [
        {
            "partition": partition,
            "worker": report.worker,
            "sharePerMinute": round(state.share / parts, 6),
            "usedLastMinute": round(state.used / parts, 6),
            "level": round(state.level / parts, 6),
            "debt": round(max(-state.level, 0.0) / parts, 6),
            "queued": state.queued // parts + (number < state.queued % parts),
        }
        for number, partition in enumerate(owned)
    ]
