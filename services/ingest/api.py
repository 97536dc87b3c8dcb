"""The HTTP interface. Accepting a request touches Kafka only; reading one touches PostgreSQL only."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlencode
from uuid import UUID

import uuid_utils.compat
from aiokafka.errors import KafkaError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from services.ingest import rules, view
from services.ingest.body import read_json
from services.ingest.errors import HANDLERS, RequestId
from services.ingest.gates import Gates
from services.ingest.keys import KeyRing
from services.ingest.probes import Probes
from services.ingest.relay import MetricsRelay
from services.ingest.settings import IngestSettings
from services.ingest.store import IngestStore, Row
from services.ingest.trace import TraceContext
from shared.http import JsonResponse, Problem
from shared.kafka import Outgoing, Publisher
from shared.log import get_logger
from shared.messages import BlogRequested, StoreGate
from shared.postgres import AWAY
from shared.topics import REQUESTS

log = get_logger(__name__)
T = TypeVar("T")

_LIST_PARAMETERS = {"status", "limit", "cursor"}
_TRACED = frozenset({"/api/blog-generation", "/api/blog-generation/bulk"})
_PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types"


class Api:
    """The handlers. All that they need is started and belongs to the caller."""

    def __init__(
        self, *, settings: IngestSettings, keys: KeyRing, gates: Gates, store: IngestStore, publisher: Publisher,
        relay: MetricsRelay, probes: Probes,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._keys = keys
        self._gates = gates
        self._store = store
        self._publisher = publisher
        self._relay = relay
        self._probes = probes

    def application(self) -> ASGIApp:
        routes: list[Route | Mount] = [
            Route("/", self._probes.index),
            Route("/health", self._probes.health),
            Route("/livez", self._probes.health),
            Route("/readyz", self._probes.ready),
            Route("/metrics", self._relay.get),
            Route("/api/rate-limiter/stats", self._relay.get),
            Route("/api/blog-generation", self.jobs, methods=["GET", "POST"]),
            Route("/api/blog-generation/{job:uuid}", self.get, methods=["GET"]),
        ]
        if self._settings.image_dir is not None:
            routes.append(Mount("/images", StaticFiles(directory=self._settings.image_dir, check_dir=False)))
        # Around all of Starlette: the answer to an unforeseen fault, and its log line, need the id most.
        app = TraceContext(Starlette(routes=routes, exception_handlers=HANDLERS), paths=_TRACED)
        return RequestId(app)

    async def jobs(self, request: Request) -> Response:
        """One route for both methods, so that a refused one is told of both."""
        return await (self.submit(request) if request.method == "POST" else self.list(request))

    async def submit(self, request: Request) -> Response:
        """POST: 201 once all of Kafka's in-sync replicas have the request."""
        store = await self._authenticate(request)
        content = await read_json(request, limit=self._settings.max_body_bytes)
        now = datetime.now(UTC)
        body = rules.judge_body(content, now=now)
        job = rules.job_id(store, request.headers.get("idempotency-key"), uuid_utils.compat.uuid7())
        if (gate := self._gates.closed(store)) is not None:
            raise _closed(gate)
        message = rules.to_message(body, job=job, store=store, now=now)
        await self._publish(message)
        answer = {
            "id": job, "status": "PENDING", "store": store, "sourceType": message.source_type,
            "sourceId": message.source_id, "createdAt": message.created_at,
        }  # fmt: skip
        return JsonResponse(answer, 201, headers={"Location": f"/api/blog-generation/{job}"})

    async def get(self, request: Request) -> Response:
        store = await self._authenticate(request)
        job: UUID = request.path_params["job"]
        row = await self._job_row(job, store)
        if row is None:
            raise Problem(404, "Not Found", detail="this store has no such job")
        steps = await _reading(self._store.steps(job))
        return JsonResponse(view.whole(dict(row), [dict(step) for step in steps], datetime.now(UTC)))

    async def list(self, request: Request) -> Response:
        store = await self._authenticate(request)
        query = request.query_params
        unknown = sorted(set(query) - _LIST_PARAMETERS)
        if unknown:
            raise rules.RefusedError([{"field": name, "detail": "is not a known parameter"} for name in unknown])
        status = rules.read_status(query["status"]) if "status" in query else None
        limit = rules.read_limit(query["limit"]) if "limit" in query else 20
        after = rules.read_cursor(query["cursor"]) if "cursor" in query else None
        rows = await _reading(self._store.list(store, status=status, after=after, limit=limit + 1))
        now, page = datetime.now(UTC), rows[:limit]
        following = rules.cursor_of(page[-1]["created_at"], page[-1]["id"]) if len(rows) > limit else None
        headers = {}
        if following is not None:
            parameters = {"limit": str(limit), "cursor": following} | ({"status": status} if status else {})
            headers["Link"] = f'</api/blog-generation?{urlencode(parameters)}>; rel="next"'
        return JsonResponse(
            {"items": [view.summary(dict(row), now) for row in page], "next": following}, headers=headers
        )

    async def _publish(self, message: BlogRequested) -> None:
        outgoing = Outgoing(topic=REQUESTS, key=message.store, message=message)
        try:
            await self._publisher.publish(outgoing, timeout=self._settings.publish_timeout_s)
        except (KafkaError, TimeoutError) as error:
            log.error("a request could not be accepted", store=message.store, reason=f"{type(error).__name__}: {error}")
            raise Problem(
                503, "Service Unavailable", detail="the event log did not acknowledge; send the request again",
                headers={"Retry-After": "2"},
            ) from None  # fmt: skip

    async def _authenticate(self, request: Request) -> str:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        store = await self._keys.store_of(key.strip()) if scheme.lower() == "bearer" else None
        if store is None:
            detail = "send a valid API key: Authorization: Bearer sk_live_…"
            raise Problem(401, "Unauthorized", detail=detail, headers={"WWW-Authenticate": "Bearer"})
        return store

    async def _job_row(self, job: UUID, store: str) -> Row | None:
        """The job's row; a job just accepted has none for a moment, so it is waited for."""
        give_up = asyncio.get_running_loop().time() + self._settings.fresh_wait_s
        row = await _reading(self._store.job(job, store))
        while row is None and _may_be_fresh(job) and asyncio.get_running_loop().time() < give_up:
            await asyncio.sleep(0.05)
            row = await _reading(self._store.job(job, store))
        return row


def _may_be_fresh(job: UUID) -> bool:
    """Whether an id can be of the last ten seconds: a UUIDv7 tells its time, a derived id (version 5) does not."""
    if job.version == 7:
        return abs(datetime.now(UTC).timestamp() - (job.int >> 80) / 1000) < 10
    return job.version == 5


async def _reading(read: Awaitable[T]) -> T:
    try:
        return await read
    except AWAY:
        raise Problem(
            503, "Service Unavailable", detail="PostgreSQL is away; accepted requests are kept",
            headers={"Retry-After": "5"},
        ) from None  # fmt: skip


def _closed(gate: StoreGate) -> Problem:
    """429 when it is the store's own queue, 503 when it is everybody's."""
    wait = str(rules.retry_after(gate))
    detail = f"no new requests for now ({gate.reason}); come back in {wait} s"
    headers = {"Retry-After": wait}
    if gate.store == rules.ALL_STORES:
        kind = f"{_PROBLEM_TYPES}#temporary-reduced-capacity"
        return Problem(503, "Service Unavailable", detail=detail, kind=kind, headers=headers)
    return Problem(429, "Too Many Requests", detail=detail, kind=f"{_PROBLEM_TYPES}#quota-exceeded", headers=headers)
