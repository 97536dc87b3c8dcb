"""The log of a store's webhooks over HTTP, and sending one again."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.ingest import rules
from services.ingest.callers import Callers
from services.ingest.reading import reading
from services.ingest.webhooks.rules import message_id
from services.ingest.webhooks.store import Row, WebhookStore
from shared.http import JsonResponse, Problem

_PARAMETERS = {"job", "limit", "cursor", "store"}


class Deliveries:
    def __init__(self, callers: Callers, store: WebhookStore) -> None:
        self._callers = callers
        self._store = store

    async def list(self, request: Request) -> Response:
        """GET /api/webhook-deliveries: the newest first, each with its attempts."""
        caller = await self._callers.anyone(request)
        query = request.query_params
        rules.judge_parameters(query, _PARAMETERS)
        store = rules.listed_store(caller.store, query.get("store"))
        job = rules.read_job(query["job"]) if "job" in query else None
        limit = rules.read_limit(query["limit"]) if "limit" in query else 20
        after = rules.read_cursor(query["cursor"]) if "cursor" in query else None
        rows = await reading(self._store.list(store, job=job, after=after, limit=limit + 1))
        page = rows[:limit]
        following = rules.cursor_of(page[-1]["created_at"], page[-1]["id"]) if len(rows) > limit else None
        headers = {}
        if following is not None:
            parameters = dict(query) | {"limit": str(limit), "cursor": following}
            headers["Link"] = f'</api/webhook-deliveries?{urlencode(parameters)}>; rel="next"'
        return JsonResponse({"items": [_shown(row) for row in page], "next": following}, headers=headers)

    async def replay(self, request: Request) -> Response:
        """POST /api/webhook-deliveries/{id}/replay: the same message, under the same webhook-id, once more."""
        store = await self._callers.store(request)
        delivery: UUID = request.path_params["delivery"]
        if not await reading(self._store.replay(delivery, store)):
            raise Problem(404, "Not Found", detail="this store has no such delivery")
        return JsonResponse({"id": delivery, "state": "WAITING", "nextAt": datetime.now(UTC)}, 202)


def _shown(row: Row) -> dict[str, Any]:
    waiting = row["state"] == "WAITING"
    return {
        "id": row["id"], "webhookId": message_id(row["id"]), "job": row["job_id"], "url": row["url"],
        "type": orjson.loads(row["payload"])["type"], "state": row["state"], "attempts": row["attempts"],
        "nextAt": row["next_at"] if waiting else None, "createdAt": row["created_at"],
        "deliveredAt": row["delivered_at"], "log": row["log"],
    }  # fmt: skip
