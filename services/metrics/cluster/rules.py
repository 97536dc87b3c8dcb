"""The workers' reports as one picture of the providers' limits. Totals are sums over the workers that are heard.

Levels below zero are debt: a worker's level is the sum of both. What a worker has is divided equally over the
partitions that it owns, for its budget is one bucket whose parts it does not tell apart.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from shared.domain.messages import LimiterReport, WorkerReport
from shared.kafka.topics import GENERATION

States = list[tuple[WorkerReport, LimiterReport]]


def totals(reports: Iterable[WorkerReport]) -> dict[str, Any]:
    """{provider: {model: {resource: {limitPerMinute, usedLastMinute, usagePercent, …, byWorker, byPartition}}}}."""
    gathered: dict[tuple[str, str, str], States] = defaultdict(list)
    for report in reports:
        for state in report.limiters:
            gathered[state.provider, state.model, state.resource].append((report, state))
    picture: dict[str, Any] = {}
    for (provider, model, resource), states in sorted(gathered.items()):
        stats.setdefault(provider, {}).setdefault(model, {})[resource] = _total(states)
    for resources in (resources for models in stats.values() for resources in models.values()):
        resources[_scarcest(resources)]["binds"] = any(
            state["queued"] for state in resources.values()
        )
    return picture


def _scarcest(resources: dict[str, dict[str, Any]]) -> str:
    """A call waits for all of a model's resources at once, hence for that of which the least of a minute's part is
    left."""
    return min(
        resources,
        key=lambda name: resources[name]["level"] / (resources[name]["sharePerMinute"] or 1),
    )


def limited_by(picture: dict[str, Any], now: datetime) -> list[dict[str, str]]:
    """What keeps calls waiting in a picture by `totals`: `unavailable`, `cooling down`, or the resource that binds."""
    found = []
    for provider, models in stats.items():
        for model, resources in models.items():
            if (by := _limit_of(resources, now)) is not None:
                found.append({"provider": provider, "model": model, "by": by})
    return found


def _limit_of(resources: dict[str, dict[str, Any]], now: datetime) -> str | None:
    states = resources.values()
    if any(state["circuitOpen"] for state in states):
        return "unavailable"
    if any(state["coolingUntil"] is not None and state["coolingUntil"] > now for state in states):
        return "cooling down"
    return next((name for name, state in resources.items() if state["binds"]), None)


def each(reports: Iterable[WorkerReport]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(provider, model, resource, what `totals` says of it)."""
    for provider, models in totals(reports).items():
        for model, resources in models.items():
            for resource, total in resources.items():
                yield provider, model, resource, total


def usage_percent(reports: Iterable[WorkerReport], provider: str, resource: str) -> float:
    """How much of the account's limit a minute was used in the last minute: of several models, the fullest."""
    return max(
        (
            total["usagePercent"]
            for p, _, r, total in each(reports)
            if (p, r) == (provider, resource)
        ),
        default=0.0,
    )


def queue_length(reports: Iterable[WorkerReport], provider: str) -> int:
    """Calls that wait for a provider's limiter: each waits for all resources in one line, so it counts once."""
    lines: dict[tuple[str, str], int] = {}
    for report in reports:
        for state in (state for state in report.limiters if state.provider == provider):
            line = (report.worker, state.model)
            lines[line] = max(lines.get(line, 0), state.queued)
    return sum(lines.values())


def _total(states: States) -> dict[str, Any]:
    limit = max(state.limit for _, state in states)
    used = sum(state.used for _, state in states)
    partitions = sorted(
        (part for pair in states for part in _by_partition(*pair)),
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
        "byWorker": [_of_worker(report, state) for report, state in states],
        "byPartition": partitions,
        "unownedPartitions": sorted(
            set(range(GENERATION.partitions)) - {part["partition"] for part in partitions}
        ),
    }


def _of_worker(report: WorkerReport, state: LimiterReport) -> dict[str, Any]:
    return {
        "worker": report.worker,
        "partitions": report.partitions,
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


def _by_partition(report: WorkerReport, state: LimiterReport) -> list[dict[str, Any]]:
    """A worker's numbers over its partitions: they add up to the worker's, a call's place in the line stays whole."""
    parts = len(report.partitions)
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
        for number, partition in enumerate(report.partitions)
    ]
