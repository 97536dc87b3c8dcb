"""The HTTP interface. Accepting a request touches Kafka only; reading one touches PostgreSQL only."""

from datetime import UTC, datetime
from urllib.parse import urlencode
from uuid import UUID

import uuid_utils.compat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from services.ingest import rules, view
from services.ingest.body import read_json
from services.ingest.bulk import Bulk
from services.ingest.callers import Callers
from services.ingest.claims import Claims
from services.ingest.errors import HANDLERS, RequestId
from services.ingest.gates import Gates
from services.ingest.interventions import Interventions
from services.ingest.keys import KeyRing
from services.ingest.probes import Probes
from services.ingest.reading import JobReader, reading
from services.ingest.refusals import acknowledged, closed
from services.ingest.relay import MetricsRelay
from services.ingest.settings import IngestSettings
from services.ingest.store import IngestStore
from services.ingest.trace import TraceContext
from shared.http import JsonResponse
from shared.kafka import Outgoing, Publisher
from shared.messages import BlogRequested, IdempotencyClaim
from shared.topics import REQUESTS

_LIST_PARAMETERS = {"status", "limit", "cursor", "store"}
_TRACED = frozenset({"/api/blog-generation", "/api/blog-generation/bulk"})


class Api:
    """The handlers. All that they need is started and belongs to the caller."""

    def __init__(
        self, *, settings: IngestSettings, keys: KeyRing, gates: Gates, claims: Claims, store: IngestStore,
        publisher: Publisher, relay: MetricsRelay, probes: Probes,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._callers = Callers(keys)
        self._gates = gates
        self._claims = claims
        self._store = store
        self._publisher = publisher
        self._relay = relay
        self._probes = probes
        self._reader = JobReader(store, fresh_wait_s=settings.fresh_wait_s)
        self._interventions = Interventions(
            callers=self._callers, store=store, reader=self._reader, publisher=publisher,
            publish_timeout_s=settings.publish_timeout_s,
        )  # fmt: skip
        self._bulk = Bulk(
            settings=settings, callers=self._callers, gates=gates, claims=claims, store=store, publisher=publisher
        )

    def application(self) -> ASGIApp:
        routes: list[Route | Mount] = [
            Route("/", self._probes.index),
            Route("/health", self._probes.health),
            Route("/livez", self._probes.health),
            Route("/readyz", self._probes.ready),
            Route("/metrics", self._relay.get),
            Route("/api/rate-limiter/stats", self._relay.get),
            Route("/api/blog-generation", self.jobs, methods=["GET", "POST"]),
            Route("/api/blog-generation/bulk", self._bulk.submit, methods=["POST"]),
            Route("/api/blog-generation/{job:uuid}", self.get, methods=["GET"]),
            Route("/api/blog-generation/{job:uuid}/cancel", self._interventions.cancel, methods=["POST"]),
            Route("/api/blog-generation/{job:uuid}/retry", self._interventions.retry, methods=["POST"]),
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
        store = await self._callers.store(request)
        content = await read_json(request, limit=self._settings.max_body_bytes)
        now = datetime.now(UTC)
        body = rules.judge_body(content, now=now)
        job = rules.job_id(store, request.headers.get("idempotency-key"), uuid_utils.compat.uuid7())
        if self._claims.known(job, now) is None and (gate := self._gates.closed(store)) is not None:
            raise closed(gate)  # a repeat is no new job
        if job.version != 7:
            now = await self._claim(body, job=job, store=store, now=now)
        message = rules.to_message(body, job=job, store=store, now=now)
        await self._publish(message)
        answer = {
            "id": job, "status": "PENDING", "store": store, "sourceType": message.source_type,
            "sourceId": message.source_id, "createdAt": message.created_at,
        }  # fmt: skip
        return JsonResponse(answer, 201, headers={"Location": f"/api/blog-generation/{job}"})

    async def get(self, request: Request) -> Response:
        caller = await self._callers.anyone(request)
        return JsonResponse(await self._reader.whole(request.path_params["job"], caller))

    async def list(self, request: Request) -> Response:
        caller = await self._callers.anyone(request)
        query = request.query_params
        unknown = sorted(set(query) - _LIST_PARAMETERS)
        if unknown:
            raise rules.RefusedError([{"field": name, "detail": "is not a known parameter"} for name in unknown])
        store = rules.listed_store(caller.store, query.get("store"))
        status = rules.read_status(query["status"]) if "status" in query else None
        limit = rules.read_limit(query["limit"]) if "limit" in query else 20
        after = rules.read_cursor(query["cursor"]) if "cursor" in query else None
        rows = await reading(self._store.list(store, status=status, after=after, limit=limit + 1))
        now, page = datetime.now(UTC), rows[:limit]
        following = rules.cursor_of(page[-1]["created_at"], page[-1]["id"]) if len(rows) > limit else None
        headers = {}
        if following is not None:
            parameters = {"limit": str(limit), "cursor": following} | ({"status": status} if status else {})
            parameters |= {"store": store} if caller.store is None else {}
            headers["Link"] = f'</api/blog-generation?{urlencode(parameters)}>; rel="next"'
        return JsonResponse(
            {"items": [view.summary(dict(row), now) for row in page], "next": following}, headers=headers
        )

    async def _claim(self, body: rules.BlogRequestBody, *, job: UUID, store: str, now: datetime) -> datetime:
        """When the job of an Idempotency-Key was first asked for; refused when that was with another request."""
        fingerprint = rules.fingerprint(body)
        claim = IdempotencyClaim(job=job, store=store, fingerprint=fingerprint, at=now)
        first = await acknowledged(self._claims.first(claim), store)
        rules.judge_repeat(fingerprint, first.fingerprint)
        return first.at

    async def _publish(self, message: BlogRequested) -> None:
        outgoing = Outgoing(topic=REQUESTS, key=message.store, message=message)
        await acknowledged(self._publisher.publish(outgoing, timeout=self._settings.publish_timeout_s), message.store)
