"""Decides why a job waits and until when, and parses list parameters of jobs. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.ingest.http.rules import invalid_field
from shared.domain.budget import next_month_start
from shared.domain.job import Status
from shared.domain.reasons import WaitReason


def parse_status(text: str) -> Status:
    try:
        return Status(text)
    except ValueError:
        raise invalid_field("status", f"must be one of {', '.join(Status)}") from None


def waiting_reason(row: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
    """Return why a job has not started and until about when; `None` unless it is PENDING.

    The scheduler's wait estimate covers the whole store; the job's place in the store's queue
    selects the part that applies to it.
    """
    if row["status"] != Status.PENDING:
        return None
    if row["not_before"] is not None and row["not_before"] > now:
        return {"reason": WaitReason.NOT_BEFORE, "until": row["not_before"]}
    if row.get("forwarded_at") is not None:
        return {"reason": WaitReason.DISPATCHED, "until": None}
    jobs_before = row.get("jobs_before") or 0
    if row.get("held") and jobs_before >= row["queued"]:
        return {
            "reason": WaitReason.BUDGET,
            "until": next_month_start(now),
            "place": jobs_before + 1,
            "limitedBy": row["limited_by"],
        }
    if row.get("reason") is None:
        return {"reason": WaitReason.FAIR_TURN, "until": None}
    is_first = jobs_before == 0 or row["reason"] != row["limited_by"]
    return {
        "reason": row["reason"] if is_first else WaitReason.FAIR_TURN,
        "until": _estimated_start(row, jobs_before, now),
        "place": jobs_before + 1,
        "limitedBy": row["limited_by"],
    }


def _estimated_start(row: Mapping[str, Any], jobs_before: int, now: datetime) -> datetime | None:
    """Interpolate between the starts of the store's first and last job; never in the past."""
    if row["first_at"] is None or row["last_at"] is None:
        return None
    fraction = min(jobs_before / (row["queued"] - 1), 1.0) if row["queued"] > 1 else 0.0
    start: datetime = row["first_at"] + (row["last_at"] - row["first_at"]) * fraction
    return max(start, now)
