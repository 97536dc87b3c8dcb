"""Turns aggregates and reports into the JSON of the endpoints. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from services.metrics.cluster import rules
from services.metrics.cluster.monitored_values import Completeness
from services.metrics.counting.rules import aggregate, histogram, history
from services.metrics.counting.rules.aggregate import Aggregate
from shared.domain.job import Status
from shared.domain.messages import (
    FairnessWindow,
    Need,
    SchedulerReport,
    StoreQueueReport,
    WorkerReport,
)


def contract_metrics(
    scheduler: SchedulerReport | None, workers: Sequence[WorkerReport]
) -> dict[str, Any]:
    """Return the four numbers of the original `/metrics` contract; usages in percent."""
    return {
        "blog_queue_size": scheduler.pending if scheduler else 0,
        "openai_rpm_usage": rules.usage_percent(workers, Need.TEXT, "requests"),
        "openai_tpm_usage": rules.usage_percent(workers, Need.TEXT, "tokens"),
        "openai_queue_length": rules.queue_length(workers, Need.TEXT),
    }


def overview(
    total: Aggregate,
    scheduler: SchedulerReport | None,
    workers: Sequence[WorkerReport],
    now: datetime,
    completeness: Completeness,
) -> dict[str, Any]:
    """Return the state of the whole system, for the top of the dashboard."""
    windows = {name: _window(total, name, now) for name in ("minute", "hour", "day")}
    done_5, _ = aggregate.in_last_minutes(total, 5, now.timestamp())
    done_60, failed_60 = aggregate.in_last_minutes(total, 60, now.timestamp())
    return {
        "at": now,
        **_scheduler_fields(scheduler, now),
        "jobs": {status.value: total["counts"].get(status.value, 0) for status in Status},
        "doneLastMinute": aggregate.in_last_minutes(total, 1, now.timestamp())[0],
        "donePerMinute": round(done_5 / 5, 1),
        "doneLastHour": done_60,
        "failedLastHour": failed_60,
        "failedPercent": _percent(failed_60, done_60 + failed_60),
        "waitSeconds": _percentiles(total["wait"]),
        "runSeconds": _percentiles(total["run"]),
        "windows": windows,
        "history": history.last_hour(total, now),
        "usage": _usage(total),
        "costUsd": total["cost_nanousd"] / 1e9,
        "inDoubtCalls": total["in_doubt"],
        "openCircuits": sorted(
            {
                f"{p}/{model}"
                for p, model, _, state in rules.iterate_totals(workers)
                if state["circuitOpen"]
            }
        ),
        "standins": any(worker.standin for worker in workers),
        "standinProviders": sorted({name for worker in workers for name in worker.standins}),
        "workers": len(workers),
        **_completeness_fields(completeness),
    }


def _scheduler_fields(scheduler: SchedulerReport | None, now: datetime) -> dict[str, Any]:
    oldest = scheduler.oldest_pending_at if scheduler else None
    return {
        "pending": scheduler.pending if scheduler else None,
        "inFlight": scheduler.in_flight if scheduler else None,
        "storesWaiting": scheduler.stores_waiting if scheduler else None,
        "storesWarned": scheduler.stores_warned if scheduler else None,
        "storesStopped": scheduler.stores_stopped if scheduler else None,
        "oldestWaitSeconds": round((now - oldest).total_seconds(), 1) if oldest else None,
        "fairness": _fairness(scheduler.fairness) if scheduler and scheduler.fairness else None,
        "schedulerHeardSecondsAgo": round((now - scheduler.at).total_seconds(), 1)
        if scheduler
        else None,
    }


def _window(total: Aggregate, name: str, now: datetime) -> dict[str, Any]:
    """Return the numbers of the last minute, hour or day.

    Windows start at whole minutes, for the day at whole hours, and include the current one.
    """
    kept, seconds, count = {
        "minute": ("minutes", 60, 1),
        "hour": ("minutes", 60, 60),
        "day": ("hours", 3600, 24),
    }[name]
    done, failed, waits, runs = aggregate.sum_windows(
        total[kept], int(now.timestamp() // seconds) - count
    )
    return {
        "done": done,
        "failed": failed,
        "failedPercent": _percent(failed, done + failed),
        "waitSeconds": _percentiles(waits),
        "runSeconds": _percentiles(runs),
    }


def _completeness_fields(completeness: Completeness) -> dict[str, Any]:
    drift = completeness.monitored.drift
    return {
        "lag": completeness.monitored.lag,
        "deadLetters": completeness.monitored.dead_letters,
        "malformedEvents": completeness.malformed,
        "drift": None
        if drift is None
        else {
            "at": drift.at,
            "jobs": drift.jobs,
            "costUsd": drift.cost_nanousd / 1e9,
            "hoursCompared": drift.hours,
        },
        "metrics": {
            "processes": completeness.processes,
            "missing": completeness.missing,
            "uncountedPartitions": completeness.uncounted,
            "complete": completeness.complete,
        },
    }


def stores(
    aggregates: Mapping[str, Aggregate],
    scheduler: SchedulerReport | None,
    *,
    spent: int,
    limit: int,
) -> list[dict[str, Any]]:
    """Return up to `limit` rows, the stores with the longest queues and highest costs first.

    `spent` is the cost of all stores, for each store's share.
    """
    queues = {queue.store: queue for queue in scheduler.stores} if scheduler else {}

    def rank(store: str) -> tuple[int, int, str]:
        queue, known = queues.get(store), aggregates.get(store)
        return (-queue.queued if queue else 0, -known["cost_nanousd"] if known else 0, store)

    chosen = sorted({*aggregates, *queues}, key=rank)[:limit]
    return [
        _store(store, aggregates.get(store) or aggregate.empty_summary(), queues.get(store), spent)
        for store in chosen
    ]


def _store(
    store: str, known: Aggregate, queue: StoreQueueReport | None, spent: int
) -> dict[str, Any]:
    return {
        "store": store,
        "queued": queue.queued if queue else 0,
        "running": queue.in_flight if queue else 0,
        "weight": queue.weight if queue else 1.0,
        "budget": queue.budget if queue else None,
        "done": known["counts"].get(Status.DONE.value, 0),
        "failed": known["counts"].get(Status.FAILED.value, 0),
        "waitSeconds": _percentiles(known["wait"]),
        "usage": _usage(known),
        "costUsd": known["cost_nanousd"] / 1e9,
        "costShare": round(known["cost_nanousd"] / (spent or 1), 4),
    }


def _fairness(window: FairnessWindow) -> dict[str, Any]:
    return {
        "beganAt": window.began_at,
        "seconds": window.seconds,
        "contenders": window.contenders,
        "jain": window.jain,
        "largestGapUsd": window.largest_gap_nanousd / 1e9,
        "lightStores": window.light_stores,
        "lightSlowdown": window.light_slowdown,
    }


def workers(
    alive: Sequence[WorkerReport], gone: Sequence[WorkerReport], now: datetime
) -> list[dict[str, Any]]:
    return [_worker(report, now, is_alive=True) for report in alive] + [
        _worker(report, now, is_alive=False) for report in gone
    ]


def _worker(report: WorkerReport, now: datetime, *, is_alive: bool) -> dict[str, Any]:
    return {
        "worker": report.worker,
        "alive": is_alive,
        "heardSecondsAgo": round((now - report.at).total_seconds(), 1),
        "startedAt": report.started_at,
        "partitions": report.partitions,
        "slots": report.total_slots,
        "accepts": report.slots,
        "running": report.running,
        "draining": report.draining,
        "standin": report.standin,
        "standins": report.standins,
    }


def _percentiles(counts: Sequence[int]) -> dict[str, float | None]:
    return {
        f"p{percent}": _rounded(histogram.percentile(counts, percent)) for percent in (50, 95, 99)
    }


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _usage(aggregate: Aggregate) -> dict[str, int]:
    return {
        "inputTokens": aggregate["input_tokens"],
        "outputTokens": aggregate["output_tokens"],
        "images": aggregate["images"],
    }
