"""Requests, jobs and lists over HTTP. Accepting a request touches Kafka only; reading one touches PostgreSQL only."""

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat
from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Callers
from services.ingest.http.body import read_json
from services.ingest.http.pagination import page_of
from services.ingest.jobs import view
from services.ingest.jobs.reader import JobReader, reading
from services.ingest.jobs.repository import IngestStore
from services.ingest.settings import IngestSettings
from services.ingest.submit import rules
from services.ingest.submit.admission import Gates
from services.ingest.submit.idempotency import Claims
from services.ingest.submit.refusals import acknowledged, closed, quota
from shared.domain.messages import BlogRequested, IdempotencyClaim
from shared.http.responses import JsonResponse
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import REQUESTS


class Api:
    """The handlers of one request, one job and a list. All that they need is started and belongs to the caller."""

    def __init__(
        self,
        *,
        settings: IngestSettings,
        callers: Callers,
        gates: Gates,
        claims: Claims,
        store: IngestStore,
        reader: JobReader,
        publisher: Publisher,
    ) -> None:
        self._settings = settings
        self._callers = callers
        self._gates = gates
        self._claims = claims
        self._store = store
        self._reader = reader
        self._publisher = publisher

    async def submit(self, request: Request) -> Response:
        """POST: 201 once all of Kafka's in-sync replicas have the request."""
        store = await self._callers.store(request)
        content = await read_json(request, limit=self._settings.max_body_bytes)
        now = datetime.now(UTC)
        body = rules.judge_body(content, now=now, context=self._settings.judging)
        key = rules.only_key(request.headers.getlist("idempotency-key"))
        job = rules.job_id(store, key, uuid_utils.compat.uuid7())
        gate = self._gates.closed(store)
        if gate is not None and self._claims.known(job, now) is None:
            raise await closed(gate, self._store, self._settings)  # a repeat is no new job
        if key is not None:
            now = await self._claim(body, job=job, store=store, now=now)
        message = rules.to_message(body, job=job, store=store, now=now)
        await self._publish(message)
        answer = {
            "id": job,
            "status": "PENDING",
            "store": store,
            "sourceType": message.source_type,
            "sourceId": message.source_id,
            "createdAt": message.created_at,
        }
        headers = {"Location": f"/api/blog-generation/{job}"} | quota(
            self._settings.max_pending_per_store
        )
        return JsonResponse(answer, 201, headers=headers)

    async def get(self, request: Request) -> Response:
        caller = await self._callers.anyone(request)
        return JsonResponse(await self._reader.whole(request.path_params["job"], caller))

    async def list(self, request: Request) -> Response:
        caller = await self._callers.anyone(request)
        query = request.query_params
        page = page_of(query, {"status"})
        store = rules.listed_store(caller.store, query.get("store"))
        status = rules.read_status(query["status"]) if "status" in query else None
        rows = await reading(
            self._store.list(store, status=status, after=page.after, limit=page.rows)
        )
        now = datetime.now(UTC)
        return page.answer("/api/blog-generation", rows, lambda row: view.summary(dict(row), now))

    async def _claim(
        self, body: rules.BlogRequestBody, *, job: UUID, store: str, now: datetime
    ) -> datetime:
        """When the job of an Idempotency-Key was first asked for; refused when that was with another request."""
        fingerprint = rules.fingerprint(body)
        claim = IdempotencyClaim(job=job, store=store, fingerprint=fingerprint, at=now)
        first = await acknowledged(self._claims.first(claim), store, id=job)
        rules.judge_repeat(fingerprint, first.fingerprint)
        return first.at

    async def _publish(self, message: BlogRequested) -> None:
        outgoing = OutgoingMessage(topic=REQUESTS, key=message.store, message=message)
        write = self._publisher.publish(outgoing, timeout=self._settings.publish_timeout_s)
        await acknowledged(write, message.store, id=message.id)
