"""The workers' reports as one picture of the providers' limits. Totals are sums over the workers that are heard."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from shared.messages import LimiterState, WorkerReport


def totals(reports: Iterable[WorkerReport]) -> dict[str, Any]:
    """{provider: {model: {resource: {limitPerMinute, usedLastMinute, usagePercent, …, byWorker: […]}}}}."""
    gathered: dict[tuple[str, str, str], list[tuple[WorkerReport, LimiterState]]] = defaultdict(list)
    for report in reports:
        for state in report.limiters:
            gathered[state.provider, state.model, state.resource].append((report, state))
    picture: dict[str, Any] = {}
    for (provider, model, resource), states in sorted(gathered.items()):
        picture.setdefault(provider, {}).setdefault(model, {})[resource] = _total(states)
    return picture


def usage_percent(reports: Iterable[WorkerReport], provider: str, resource: str) -> float:
    """How much of the account's limit a minute was used in the last minute."""
    states = [
        state for report in reports for state in report.limiters
        if (state.provider, state.resource) == (provider, resource)
    ]  # fmt: skip
    limit = max((state.limit for state in states), default=0.0)
    return round(100 * sum(state.used for state in states) / limit, 2) if limit else 0.0


def queue_length(reports: Iterable[WorkerReport], provider: str) -> int:
    """Calls that wait for a provider's limiter: each waits for all resources in one line, so it counts once."""
    return sum(
        max((state.queued for state in report.limiters if state.provider == provider), default=0) for report in reports
    )


def _total(states: list[tuple[WorkerReport, LimiterState]]) -> dict[str, Any]:
    limit = max(state.limit for _, state in states)
    used = sum(state.used for _, state in states)
    return {
        "limitPerMinute": limit,
        "sharePerMinute": round(sum(state.share for _, state in states), 3),
        "usedLastMinute": used,
        "usagePercent": round(100 * used / limit, 2) if limit else 0.0,
        "level": round(sum(state.level for _, state in states), 3),
        "queued": sum(state.queued for _, state in states),
        "longestWaitS": max((state.wait_s or 0.0 for _, state in states), default=0.0),
        "coolingUntil": max((state.cooling_until for _, state in states if state.cooling_until), default=None),
        "circuitOpen": any(state.circuit_open for _, state in states),
        "byWorker": [
            {
                "worker": report.worker,
                "partitions": report.partitions,
                "sharePerMinute": round(state.share, 3),
                "usedLastMinute": state.used,
                "level": state.level,
                "queued": state.queued,
                "waitS": state.wait_s,
                "pace": state.pace,
            }
            for report, state in states
        ],
    }
