"""What the endpoints say: aggregates and reports become JSON. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from services.metrics.rules import fold, histogram, limits
from services.metrics.rules.fold import Aggregate
from shared.job import Status
from shared.messages import FairnessWindow, SchedulerReport, WorkerReport


def contract_metrics(scheduler: SchedulerReport | None, workers: Sequence[WorkerReport]) -> dict[str, Any]:
    """The four numbers that operators have always read; usages in percent."""
    return {
        "blog_queue_size": scheduler.pending if scheduler else 0,
        "openai_rpm_usage": limits.usage_percent(workers, "openai", "requests"),
        "openai_tpm_usage": limits.usage_percent(workers, "openai", "tokens"),
        "openai_queue_length": limits.queue_length(workers, "openai"),
    }


def overview(
    total: Aggregate, scheduler: SchedulerReport | None, workers: Sequence[WorkerReport], now: datetime
) -> dict[str, Any]:
    """The state of the whole: what a person wants to see first."""
    done_5, _ = fold.in_last_minutes(total, 5, now.timestamp())
    done_60, failed_60 = fold.in_last_minutes(total, 60, now.timestamp())
    ended = done_60 + failed_60
    oldest = scheduler.oldest_pending_at if scheduler else None
    return {
        "at": now,
        "pending": scheduler.pending if scheduler else None,
        "inFlight": scheduler.in_flight if scheduler else None,
        "storesWaiting": scheduler.stores_waiting if scheduler else None,
        "oldestWaitSeconds": round((now - oldest).total_seconds(), 1) if oldest else None,
        "fairness": _fairness(scheduler.fairness) if scheduler and scheduler.fairness else None,
        "schedulerHeardSecondsAgo": round((now - scheduler.at).total_seconds(), 1) if scheduler else None,
        "jobs": {status.value: total["counts"].get(status.value, 0) for status in Status},
        "doneLastMinute": fold.in_last_minutes(total, 1, now.timestamp())[0],
        "donePerMinute": round(done_5 / 5, 1),
        "doneLastHour": done_60,
        "failedLastHour": failed_60,
        "failedPercent": round(100 * failed_60 / ended, 2) if ended else 0.0,
        "waitSeconds": _percentiles(total["wait"]),
        "runSeconds": _percentiles(total["run"]),
        "usage": _usage(total),
        "costUsd": total["cost_nanousd"] / 1e9,
        "standins": any(worker.standin for worker in workers),
        "workers": len(workers),
    }


def stores(aggregates: Mapping[str, Aggregate], scheduler: SchedulerReport | None) -> list[dict[str, Any]]:
    """Fairness by store: what waits, what runs, what was done, and each one's share of the money."""
    queues = {queue.store: queue for queue in scheduler.stores} if scheduler else {}
    spent = sum(aggregate["cost_nanousd"] for aggregate in aggregates.values()) or 1
    rows = []
    for store in sorted({*aggregates, *queues}):
        aggregate, queue = aggregates.get(store) or fold.empty(), queues.get(store)
        rows.append(
            {
                "store": store,
                "queued": queue.queued if queue else 0,
                "running": queue.in_flight if queue else 0,
                "weight": queue.weight if queue else 1.0,
                "done": aggregate["counts"].get(Status.DONE.value, 0),
                "failed": aggregate["counts"].get(Status.FAILED.value, 0),
                "waitSeconds": _percentiles(aggregate["wait"]),
                "usage": _usage(aggregate),
                "costUsd": aggregate["cost_nanousd"] / 1e9,
                "costShare": round(aggregate["cost_nanousd"] / spent, 4),
            }
        )
    return sorted(rows, key=lambda row: (-row["queued"], -row["costUsd"], row["store"]))


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


def workers(alive: Sequence[WorkerReport], gone: Sequence[WorkerReport], now: datetime) -> list[dict[str, Any]]:
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
        "slots": report.slots,
        "running": report.running,
        "draining": report.draining,
        "standin": report.standin,
    }


def _percentiles(counts: Sequence[int]) -> dict[str, float | None]:
    return {f"p{percent}": _rounded(histogram.percentile(counts, percent)) for percent in (50, 95, 99)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _usage(aggregate: Aggregate) -> dict[str, int]:
    return {
        "inputTokens": aggregate["input_tokens"],
        "outputTokens": aggregate["output_tokens"],
        "images": aggregate["images"],
    }
