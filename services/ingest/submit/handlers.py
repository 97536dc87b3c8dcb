"""Accepts one request. It touches Kafka only; PostgreSQL may be down."""

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat
from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Authenticator
from services.ingest.budgets.repository import BudgetRepository
from services.ingest.http.body import read_json
from services.ingest.settings import IngestSettings
from services.ingest.submit import rules
from services.ingest.submit.admission import AdmissionView
from services.ingest.submit.idempotency import IdempotencyIndex
from services.ingest.submit.refusals import (
    admission_closed,
    await_acknowledgement,
    rate_limit_policy,
)
from services.ingest.submit.rules import BlogRequestBody
from shared.domain.messages import BlogRequested, IdempotencyRecord
from shared.http.responses import JsonResponse
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import REQUESTS


class SubmitHandler:
    def __init__(
        self,
        *,
        settings: IngestSettings,
        authenticator: Authenticator,
        admission: AdmissionView,
        idempotency: IdempotencyIndex,
        budgets: BudgetRepository,
        publisher: Publisher,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._admission = admission
        self._idempotency = idempotency
        self._budgets = budgets
        self._publisher = publisher

    async def submit_request(self, request: Request) -> Response:
        """Answer 201 once all in-sync replicas of Kafka have the request."""
        store = await self._authenticator.authenticate_store(request)
        content = await read_json(request, limit=self._settings.max_body_bytes)
        now = datetime.now(UTC)
        body = rules.parse_request(content, now=now, policy=self._settings.request_policy)
        self._settings.request_policy.check_model(store, body.model)
        key = rules.single_idempotency_key(request.headers.getlist("idempotency-key"))
        job = rules.job_id(store, key, uuid_utils.compat.uuid7())
        state = self._admission.closed_state(store)
        # A repeat creates no job, so closed admission does not refuse it.
        if state is not None and self._idempotency.find_first_request(job, now) is None:
            raise await admission_closed(state, self._budgets, self._settings)
        if key is not None:
            now = await self._register_key(body, job=job, store=store, now=now)
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
        headers = {"Location": f"/api/blog-generation/{job}"}
        headers |= rate_limit_policy(self._settings.max_pending_per_store)
        return JsonResponse(answer, 201, headers=headers)

    async def _register_key(
        self, body: BlogRequestBody, *, job: UUID, store: str, now: datetime
    ) -> datetime:
        """Return the time of the key's first request; refuse if that request differs."""
        fingerprint = rules.fingerprint(body)
        record = IdempotencyRecord(job=job, store=store, fingerprint=fingerprint, at=now)
        first = await await_acknowledgement(self._idempotency.register_key(record), store, id=job)
        rules.check_same_request(fingerprint, first.fingerprint)
        return first.at

    async def _publish(self, message: BlogRequested) -> None:
        outgoing = OutgoingMessage(topic=REQUESTS, key=message.store, message=message)
        write = self._publisher.publish(outgoing, timeout=self._settings.publish_timeout_s)
        await await_acknowledgement(write, message.store, id=message.id)
