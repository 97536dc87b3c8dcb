"""Snapshots as `/api/events` sends them, for situations that an operator meets.

Each call returns a new one, which a test may change. All times are relative to now.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from services.metrics.alerts.definitions import ALERTS
from services.metrics.alerts.evaluator import alert_json
from services.metrics.alerts.rules import AlertState, Severity

Snapshot = dict[str, Any]

_WORKERS = ("generator-1-4121", "generator-2-4140")


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def job_id(number: int) -> str:
    return f"01938c1e-7a40-7{number:03x}-9c3d-5b1f0e7a{number:04x}"


def idle() -> Snapshot:
    """Two workers and no jobs at all."""
    overview = {
        "at": ago(0),
        "pending": 0,
        "inFlight": 0,
        "storesWaiting": 0,
        "oldestWaitSeconds": None,
        "fairness": None,
        "schedulerHeardSecondsAgo": 0.4,
        "doneLastMinute": 0,
        "donePerMinute": 0.0,
        "doneLastHour": 0,
        "failedLastHour": 0,
        "failedPercent": 0.0,
        "waitSeconds": _percentiles(None, None),
        "runSeconds": _percentiles(None, None),
        "usage": _usage(0),
        "costUsd": 0.0,
        "standins": False,
        "standinProviders": [],
        "workers": 2,
        "jobs": dict.fromkeys(
            ("PENDING", "PROCESSING", "DONE", "FAILED", "REJECTED", "CANCELLED"), 0
        ),
        "deadLetters": 0,
        "inDoubtCalls": 0,
        "malformedEvents": 0,
        "lag": {"scheduler": 0, "metrics": 0},
        "drift": {"at": ago(20), "jobs": 0, "costUsd": 0.0},
        "history": _history([0] * 60, [0] * 60),
        "metrics": {"processes": 1, "missing": [], "uncountedPartitions": [], "complete": True},
    }
    workers = [_worker(name, number, running=0) for number, name in enumerate(_WORKERS)]
    return {
        "overview": overview,
        "stores": [],
        "workers": workers,
        "rateLimiter": _limits(4),
        "alerts": [],
        "jobs": [],
    }


def flood() -> Snapshot:
    """One store requests far more than all others; all are served fairly."""
    snapshot = idle()
    snapshot["overview"] |= {
        "pending": 1412,
        "inFlight": 78,
        "storesWaiting": 9,
        "oldestWaitSeconds": 341.0,
        "donePerMinute": 61.4,
        "doneLastMinute": 63,
        "doneLastHour": 2310,
        "failedLastHour": 12,
        "failedPercent": 0.52,
        "waitSeconds": _percentiles(14.2, 380.0),
        "costUsd": 8.1234,
        "usage": _usage(9_123_456),
        "standins": True,
        "standinProviders": ["replicate"],
        "jobs": snapshot["overview"]["jobs"]
        | {"PENDING": 1412, "PROCESSING": 78, "DONE": 2310, "FAILED": 12},
        "fairness": {
            "beganAt": ago(60),
            "seconds": 60,
            "contenders": 9,
            "jain": 0.987,
            "largestGapUsd": 0.0042,
            "lightStores": 8,
            "lightSlowdown": 1.04,
        },
        "history": _history(
            [18 + number % 5 for number in range(36)] + [60 + number % 7 for number in range(24)],
            [number % 4 for number in range(36)] + [1900 - 20 * number for number in range(24)],
        ),
    }
    small = (
        "acorn-and-oak",
        "bright-bikes",
        "ceramics-by-lena",
        "dogs-of-the-north-outdoor-equipment",
        "espresso-parts",
        "fjord-knitwear",
        "green-tea-garden",
        "harbour-books",
    )
    snapshot["stores"] = [
        _store("mega-mart", queued=1349, running=20, done=640, share=0.13, wait=(160.0, 380.0))
    ] + [
        _store(
            name,
            queued=11 - number,
            running=8 - number % 3,
            done=208 - number,
            share=0.11 - number / 1000,
            wait=(4.1 + number, 17.5 + number),
        )
        for number, name in enumerate(small)
    ]
    snapshot["workers"] = [
        _worker(name, number, running=36 + 6 * number) for number, name in enumerate(_WORKERS)
    ]
    snapshot["rateLimiter"] = _limits(82)
    snapshot["rateLimiter"]["limitedBy"] = [
        {"provider": "openai", "model": "gpt-4o-mini", "by": "tokens"}
    ]
    openai = snapshot["rateLimiter"]["rateLimiter"]["openai"]["gpt-4o-mini"]
    for limit in openai.values():
        limit |= {"queued": 12, "longestWaitS": 9.4}
    openai["tokens"] |= {"binds": True, "level": -1_240.0}
    statuses = (
        "PROCESSING",
        "DONE",
        "PENDING",
        "DONE",
        "FAILED",
        "PROCESSING",
        "DONE",
        "CANCELLED",
    )
    snapshot["jobs"] = [_job(number, status) for number, status in enumerate(statuses)]
    return snapshot


def provider_down() -> Snapshot:
    """OpenAI's account has no money left, Replicate asked for a cool-down, and a worker is gone."""
    snapshot = flood()
    snapshot["overview"] |= {
        "pending": 5320,
        "donePerMinute": 0.8,
        "oldestWaitSeconds": 2460.0,
        "standins": False,
        "standinProviders": [],
    }
    snapshot["overview"] |= {
        "deadLetters": 3,
        "inDoubtCalls": 2,
        "lag": {"scheduler": 40, "metrics": 12},
        "inFlight": 36,
    }
    snapshot["overview"]["metrics"] |= {"complete": False, "missing": ["10.0.0.7:3001"]}
    snapshot["overview"] |= {
        "failedPercent": 22.4,
        "failedLastHour": 212,
        "doneLastHour": 734,
        "workers": 1,
    }
    snapshot["rateLimiter"] = _limits(0.4)
    snapshot["rateLimiter"]["limitedBy"] = [
        {"provider": "openai", "model": "gpt-4o-mini", "by": "unavailable"},
        {"provider": "replicate", "model": "black-forest-labs/flux-schnell", "by": "cooling down"},
    ]
    snapshot["overview"]["history"] = _history(
        [55 + number % 7 for number in range(45)]
        + [max(0, 50 - 12 * number) for number in range(15)],
        [2 * number for number in range(45)] + [90 + 350 * number for number in range(15)],
    )
    providers = snapshot["rateLimiter"]["rateLimiter"]
    for limit in providers["openai"]["gpt-4o-mini"].values():
        limit["circuitOpen"] = True
    providers["replicate"]["black-forest-labs/flux-schnell"]["images"] |= {
        "coolingUntil": ago(-40),
        "queued": 31,
        "longestWaitS": 44.0,
        "binds": True,
    }
    snapshot["workers"][1] |= {
        "alive": False,
        "heardSecondsAgo": 48.2,
        "partitions": [],
        "running": 0,
    }
    snapshot["alerts"] = [
        _alert("circuit-open", Severity.CRITICAL, 2, 610),
        _alert("error-rate", Severity.CRITICAL, 22.4, 480),
        _alert("queue-long", Severity.CRITICAL, 5320, 94),
        _alert("oldest-wait", Severity.WARNING, 2460, 660),
    ]
    return snapshot


def alerts() -> Snapshot:
    """A flood with a warning about the long queue."""
    snapshot = flood()
    snapshot["alerts"] = [_alert("queue-long", Severity.WARNING, 1412, 122)]
    return snapshot


def timeline(number: int, status: str, error: str | None = None) -> dict[str, Any]:
    """A job that waited 9 s in its queue and 6.5 s for OpenAI's limit, and was retried once."""
    steps: tuple[tuple[float, str, dict[str, Any]], ...] = (
        (60.0, "queued", {}),
        (59.9, "admitted", {}),
        (51.2, "forwarded", {}),
        (51.0, "started", {"worker": _WORKERS[0]}),
        (46.1, "step-done", {"step": "outline"}),
        (44.0, "retry", {"error": "openai answered 503", "worker": _WORKERS[0]}),
        (38.0, "started", {"attempt": 2, "worker": _WORKERS[1]}),
        (20.0, "step-done", {"attempt": 2, "step": "article", "limitWaitSeconds": 6.5}),
        (18.4, "step-done", {"attempt": 2, "step": "image"}),
        (18.2, "ended", {"attempt": 2, "error": error}),
    )
    ended = status not in ("PENDING", "PROCESSING")
    bare = {"attempt": 1, "step": None, "worker": None, "limitWaitSeconds": None, "error": None}
    events = [
        bare | {"kind": kind, "at": ago(at)} | more
        for at, kind, more in (steps if ended else steps[:-2])
    ]
    return {
        "job": job_id(number),
        "store": "mega-mart",
        "status": status,
        "attempt": 2,
        "createdAt": ago(60.0),
        "waitSeconds": 9.0,
        "costUsd": 0.0034,
        "error": error,
        "events": events,
    }


def _alert(name: str, severity: Severity, value: float, seconds: float) -> dict[str, Any]:
    """Return a declared alert as the service shows it."""
    (alert,) = [alert for alert in ALERTS if alert.name == name]
    shown = alert_json(alert, AlertState(severity=severity, value=value))
    return shown | {"since": ago(seconds)}


def _job(number: int, status: str) -> dict[str, Any]:
    error = "openai refused the prompt: content policy" if status == "FAILED" else None
    return {
        "job": job_id(number),
        "store": "mega-mart" if number % 3 else "fjord-knitwear",
        "status": status,
        "attempt": 1,
        "createdAt": ago(60),
        "startedAt": ago(50),
        "finishedAt": None,
        "waitSeconds": 9.3 + number,
        "costUsd": 0.0034,
        "error": error,
    }


def _store(
    name: str, *, queued: int, running: int, done: int, share: float, wait: tuple[float, float]
) -> dict[str, Any]:
    return {
        "store": name,
        "queued": queued,
        "running": running,
        "weight": 1.0,
        "done": done,
        "failed": done % 3,
        "waitSeconds": _percentiles(*wait),
        "usage": _usage(done * 2400),
        "costUsd": round(done * 0.0035, 4),
        "costShare": share,
    }


def _worker(name: str, number: int, *, running: int) -> dict[str, Any]:
    return {
        "worker": name,
        "alive": True,
        "heardSecondsAgo": 0.3 + number / 10,
        "startedAt": ago(3600),
        "running": running,
        "partitions": list(range(12 * number, 12 * number + 12)),
        "slots": 50,
        "draining": False,
        "standin": False,
        "standins": [],
    }


def _limits(percent: float) -> dict[str, Any]:
    return {
        "status": "ok",
        "limitedBy": [],
        "rateLimiter": {
            "openai": {
                "gpt-4o-mini": {
                    "requests": _limit(500, percent),
                    "tokens": _limit(200_000, percent * 1.1),
                }
            },
            "replicate": {"black-forest-labs/flux-schnell": {"images": _limit(600, percent / 3)}},
        },
    }


def _limit(limit: float, percent: float) -> dict[str, Any]:
    used, share = limit * percent / 100, limit / 24
    by_partition = [
        {
            "partition": number,
            "worker": _WORKERS[number // 12],
            "sharePerMinute": round(share, 3),
            "queued": 0,
            "usedLastMinute": round(used / 24 * (0.8 + number % 5 / 10), 1),
            "level": round(share / 40, 3),
        }
        for number in range(24)
    ]
    return {
        "limitPerMinute": limit,
        "sharePerMinute": limit,
        "usedLastMinute": used,
        "usagePercent": round(percent, 2),
        "level": round(limit / 40, 3),
        "queued": 0,
        "longestWaitS": 0.0,
        "coolingUntil": None,
        "circuitOpen": False,
        "binds": False,
        "byWorker": [],
        "byPartition": by_partition,
    }


def _history(done: list[int], pending: list[int]) -> dict[str, Any]:
    began = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)
    return {
        "from": began.isoformat().replace("+00:00", "Z"),
        "stepSeconds": 60,
        "done": done,
        "failed": [0] * 60,
        "pending": pending,
    }


def _percentiles(p50: float | None, p95: float | None) -> dict[str, float | None]:
    return {"p50": p50, "p95": p95, "p99": p95}


def _usage(tokens: int) -> dict[str, int]:
    return {
        "inputTokens": tokens // 3,
        "outputTokens": tokens - tokens // 3,
        "images": tokens // 2400,
    }
