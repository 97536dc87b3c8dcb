"""The log of a store's webhooks over HTTP, and sending one again."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Callers
from services.ingest.http.pagination import page_of
from services.ingest.jobs.reader import reading
from services.ingest.submit import rules
from services.ingest.webhooks.repository import Row, WebhookStore
from services.ingest.webhooks.rules import message_id
from shared.http.responses import JsonResponse, Problem
from shared.observability.log import get_logger

log = get_logger(__name__)


class Deliveries:
    def __init__(self, callers: Callers, store: WebhookStore) -> None:
        self._callers = callers
        self._store = store

    async def list(self, request: Request) -> Response:
        """GET /api/webhook-deliveries: the newest first, each with its attempts."""
        caller = await self._callers.anyone(request)
        query = request.query_params
        page = page_of(query, {"job"})
        store = rules.listed_store(caller.store, query.get("store"))
        job = rules.read_job(query["job"]) if "job" in query else None
        rows = await reading(self._store.list(store, job=job, after=page.after, limit=page.rows))
        return page.answer("/api/webhook-deliveries", rows, _shown)

    async def replay(self, request: Request) -> Response:
        """POST /api/webhook-deliveries/{id}/replay: the same message, under the same webhook-id, once more."""
        caller = await self._callers.anyone(request)
        delivery: UUID = request.path_params["delivery"]
        if not await reading(self._store.replay(delivery, caller.store)):
            raise Problem(404, "Not Found", detail="no such delivery here")
        log.info("a webhook is sent once more", delivery=str(delivery), by=caller.name)
        return JsonResponse({"id": delivery, "state": "WAITING", "nextAt": datetime.now(UTC)}, 202)


def _shown(row: Row) -> dict[str, Any]:
    waiting = row["state"] == "WAITING"
    return {
        "id": row["id"],
        "webhookId": message_id(row["id"]),
        "job": row["job_id"],
        "url": row["url"],
        "type": orjson.loads(row["payload"])["type"],
        "state": row["state"],
        "attempts": row["attempts"],
        "nextAt": row["next_at"] if waiting else None,
        "createdAt": row["created_at"],
        "deliveredAt": row["delivered_at"],
        "log": row["log"],
    }
