"""A job as clients and readers of events see it: rows become the JSON of interface and docs, and events. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from services.ingest.submit.rules import why_waiting
from shared.domain.job import Status
from shared.domain.messages import EventKind, JobEvent, PreviousOutcome, Usage


def summary(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """A job as an item of a list."""
    status = Status(row["status"])
    return {
        "id": row["id"],
        "store": row["instance_id"],
        "status": status,
        "sourceType": row["source_type"],
        "sourceId": row["source_id"],
        "createdAt": row["created_at"],
        "startedAt": row["started_at"],
        "finishedAt": row["finished_at"],
        "attempts": row["attempts"],
        "usage": {
            "inputTokens": row["input_tokens"],
            "outputTokens": row["output_tokens"],
            "images": row["images"],
        },
        "costUsd": row["cost_nanousd"] / 1e9,
        "waiting": why_waiting(row, now),
        "error": {"code": row["error_code"], "message": row["error"]} if row["error"] else None,
    }


def whole(
    row: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], now: datetime
) -> dict[str, Any]:
    """A job with its steps and, when DONE, its post."""
    return summary(row, now) | {"steps": [_step(step) for step in steps], "post": _post(row)}


def _step(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["step"],
        "state": row["state"],
        "attempt": row["attempt"],
        "startedAt": row["call_started_at"],
        "finishedAt": row["finished_at"],
        "usage": {
            "inputTokens": row["input_tokens"],
            "outputTokens": row["output_tokens"],
            "images": row["images"],
        },
        "costUsd": row["cost_nanousd"] / 1e9,
        "inDoubt": row["in_doubt"],
    }


def _post(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row["status"] != Status.DONE:
        return None
    return {
        "title": row["title"],
        "slug": row["slug"],
        "metaDescription": row["meta_description"],
        "html": row["html"],
        "imageUrl": row["image_url"],
    }


def event(row: Mapping[str, Any], kind: EventKind) -> JobEvent:
    """What somebody has just changed of a job, as all hear of it."""
    return JobEvent(
        job=row["id"],
        store=row["instance_id"],
        kind=kind,
        status=Status(row["status"]),
        attempt=row["attempt"],
        at=row["intervened_at"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        worker=row["worker"],
        usage=Usage(
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            images=row["images"],
            cost_nanousd=row["cost_nanousd"],
            in_doubt=row["in_doubt"],
        ),
        not_before=row["not_before"],
        error=row["error"],
        former=_former_end(row),
    )


def _former_end(row: Mapping[str, Any]) -> PreviousOutcome | None:
    if row.get("former_at") is None:
        return None
    return PreviousOutcome(
        status=Status(row["former_status"]), at=row["former_at"], begun=row["former_begun"]
    )
