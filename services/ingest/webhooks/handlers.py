"""Lists a store's webhook deliveries and replays them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Authenticator
from services.ingest.http.pagination import parse_page_request
from services.ingest.http.rules import parse_job_id, select_store
from services.ingest.jobs.reader import read_or_refuse
from services.ingest.webhooks.repository import Row, WebhookRepository
from services.ingest.webhooks.rules import webhook_id
from shared.http.responses import JsonResponse, Problem
from shared.observability.log import get_logger

log = get_logger(__name__)


class DeliveryHandlers:
    def __init__(self, authenticator: Authenticator, repository: WebhookRepository) -> None:
        self._authenticator = authenticator
        self._repository = repository

    async def list_deliveries(self, request: Request) -> Response:
        """Answer a page of deliveries, newest first, each with its attempts."""
        caller = await self._authenticator.authenticate(request)
        query = request.query_params
        page = parse_page_request(query, {"job"})
        store = select_store(caller.store, query.get("store"))
        job = parse_job_id(query["job"]) if "job" in query else None
        rows = await read_or_refuse(
            self._repository.list_deliveries(store, job=job, after=page.after, limit=page.rows)
        )
        return page.answer("/api/webhook-deliveries", rows, _delivery_view)

    async def replay_delivery(self, request: Request) -> Response:
        """Send a delivery again, with the same content and `webhook-id`."""
        caller = await self._authenticator.authenticate(request)
        delivery: UUID = request.path_params["delivery"]
        if not await read_or_refuse(self._repository.replay_delivery(delivery, caller.store)):
            raise Problem(404, "Not Found", detail="no such delivery here")
        log.info("webhook delivery replayed", delivery=str(delivery), by=caller.name)
        return JsonResponse({"id": delivery, "state": "WAITING", "nextAt": datetime.now(UTC)}, 202)


def _delivery_view(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "webhookId": webhook_id(row["id"]),
        "job": row["job_id"],
        "url": row["url"],
        "type": orjson.loads(row["payload"])["type"],
        "state": row["state"],
        "attempts": row["attempts"],
        "nextAt": row["next_at"] if row["state"] == "WAITING" else None,
        "createdAt": row["created_at"],
        "deliveredAt": row["delivered_at"],
        "log": row["log"],
    }
