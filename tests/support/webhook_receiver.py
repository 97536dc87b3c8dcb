"""A store's webhook server, and views of the deliveries to it."""

import asyncio
import base64
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.system.home import free_port
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind
from shared.http import server
from tests.support.backend import Backend, running_service
from tests.support.ingest import Ingest, insert, publish_job_event

DELIVERIES = "/api/webhook-deliveries"


@dataclass(slots=True)
class WebhookReceiver:
    """Answers with `answers` in turn, then with 204. Requests to /hang hang until `release`."""

    url: str
    answers: list[Response] = field(default_factory=list)
    received: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers and body of each request."""
    hanging: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self, request: Request) -> Response:
        self.received.append((request.url.path, dict(request.headers), await request.body()))
        if request.url.path == "/hang":
            self.hanging += 1
            await self.release.wait()
        return self.answers.pop(0) if self.answers else Response(status_code=204)

    def has_received(self, count: int) -> bool:
        return len(self.received) >= count


@asynccontextmanager
async def start_webhook_receiver(*answers: Response) -> AsyncIterator[WebhookReceiver]:
    port = free_port()
    receiver = WebhookReceiver(f"http://127.0.0.1:{port}/hook", list(answers))
    app = Starlette(routes=[Route("/{path:path}", receiver.receive, methods=["GET", "POST"])])
    async with running_service(
        partial(server.serve_http, app, server.open_listener("127.0.0.1", port))
    ):
        try:
            yield receiver
        finally:
            receiver.release.set()


async def complete_job(backend: Backend, request: BlogRequested, *, times: int = 1) -> None:
    """Insert the job as DONE and publish its end `times` times."""
    await insert(backend, request, "DONE")
    for _ in range(times):
        await publish_job_event(backend, request, EventKind.ENDED, Status.DONE, attempt=0)


async def list_deliveries(
    ingest: Ingest, job: UUID, key: str | None = None
) -> list[dict[str, Any]]:
    answer = await ingest.get(f"{DELIVERIES}?job={job}", key=key)
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def find_delivery(ingest: Ingest, job: UUID, state: str) -> dict[str, Any] | None:
    """Return the job's delivery in this state, if any; `None` while ingest answers 503."""
    answer = await ingest.get(f"{DELIVERIES}?job={job}")
    items = [] if answer.status_code == 503 else answer.json()["items"]
    return next((delivery for delivery in items if delivery["state"] == state), None)


def is_signed(secret: str, headers: dict[str, str], content: bytes) -> bool:
    """Check the signature as a receiver does."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    expected = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, "sha256")
    signatures = headers["webhook-signature"].split(" ")
    return f"v1,{base64.b64encode(expected).decode()}" in signatures
