"""A job as clients see it: rows become the JSON of interface and docs. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from services.ingest.rules import why_waiting
from shared.job import Status


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
        "attempts": row["attempt"],
        "usage": {
            "inputTokens": row["input_tokens"],
            "outputTokens": row["output_tokens"],
            "images": row["images"],
        },
        "costUsd": row["cost_nanousd"] / 1e9,
        "waiting": why_waiting(row, now),
        "error": {"code": row["error_code"], "message": row["error"]} if row["error"] else None,
    }


def whole(row: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, Any]:
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
