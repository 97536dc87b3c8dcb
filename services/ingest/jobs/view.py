"""Converts rows of jobs into the JSON that clients see. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from services.ingest.jobs.rules import waiting_reason
from shared.domain.job import Status


def job_summary(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a job as an item of a list."""
    status = Status(row["status"])
    return {
        "id": row["id"],
        "store": row["store"],
        "status": status,
        "sourceType": row["source_type"],
        "sourceId": row["source_id"],
        "createdAt": row["created_at"],
        "startedAt": row["started_at"],
        "finishedAt": row["finished_at"],
        "attempts": row["attempts"],
        "usage": _usage(row),
        "costUsd": row["cost_nanousd"] / 1e9,
        "waiting": waiting_reason(row, now),
        "error": {"code": row["error_code"], "message": row["error"]} if row["error"] else None,
    }


def job_detail(
    row: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], now: datetime
) -> dict[str, Any]:
    """Return a job with its steps and, when it is DONE, its post."""
    return job_summary(row, now) | {"steps": [_step(step) for step in steps], "post": _post(row)}


def _step(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["step"],
        "state": row["state"],
        "attempt": row["attempt"],
        "startedAt": row["call_started_at"],
        "finishedAt": row["finished_at"],
        "usage": _usage(row),
        "costUsd": row["cost_nanousd"] / 1e9,
        "inDoubt": row["in_doubt"],
    }


def _usage(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "inputTokens": row["input_tokens"],
        "outputTokens": row["output_tokens"],
        "reasoningTokens": row["reasoning_tokens"],
        "images": row["images"],
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
