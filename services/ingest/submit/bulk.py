"""Accepts many requests in one call, all or none: every item is validated before any is taken."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat
from aiokafka.errors import KafkaError
from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Authenticator
from services.ingest.budgets.repository import BudgetRepository
from services.ingest.budgets.rules import StoreBudget, budget_from_row
from services.ingest.http.body import read_body
from services.ingest.http.concurrency_limit import ConcurrencyLimit
from services.ingest.http.rules import InvalidRequestError
from services.ingest.jobs.repository import JobRepository, WaitingJobs
from services.ingest.settings import IngestSettings
from services.ingest.submit import bulk_rules, rules
from services.ingest.submit.admission import AdmissionView
from services.ingest.submit.bulk_rules import ParsedBulk
from services.ingest.submit.idempotency import IdempotencyIndex
from services.ingest.submit.refusals import (
    QUEUE_FULL_TYPE,
    admission_closed,
    await_acknowledgement,
    over_budget,
    rate_limit_policy,
    unacknowledged,
)
from services.ingest.submit.rules import BlogRequestBody
from services.ingest.submit.unadmitted_jobs import UnadmittedBulkJobs
from shared.domain.budget import next_month_start
from shared.domain.messages import BlogRequested, IdempotencyRecord
from shared.http.responses import JsonResponse, Problem
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import REQUESTS
from shared.observability.log import get_logger
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)

_BATCH_SIZE = 200
"""Requests published at once; other clients' requests get their turn between batches."""
_COUNT_DEADLINE_S = 2.0
"""Limits the count of waiting jobs; the count only refines admission control."""
_PARSED_AT_ONCE = 2
"""Calls. A decoded body may take half a gigabyte."""
_CALLS = 8
_CALLS_PER_STORE = 2
"""Concurrent calls; eight bodies take at most a quarter of a gigabyte."""
_RETRY_AFTER_S = "30"


class BulkSubmitHandler:
    def __init__(
        self,
        *,
        settings: IngestSettings,
        authenticator: Authenticator,
        admission: AdmissionView,
        idempotency: IdempotencyIndex,
        jobs: JobRepository,
        budgets: BudgetRepository,
        publisher: Publisher,
        unadmitted: UnadmittedBulkJobs,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._admission = admission
        self._idempotency = idempotency
        self._jobs = jobs
        self._budgets = budgets
        self._publisher = publisher
        self._unadmitted = unadmitted
        self._parsing = asyncio.Semaphore(_PARSED_AT_ONCE)
        self._calls = ConcurrencyLimit(
            "bulk calls", total=_CALLS, per_store=_CALLS_PER_STORE, retry_after_s=2
        )

    async def submit_bulk(self, request: Request) -> Response:
        """Answer 201 with one entry per item once Kafka has all; an invalid item refuses all."""
        store = await self._authenticator.authenticate_store(request)
        with self._calls.acquire_slot(store):  # the body takes memory from its first byte on
            return await self._submit(request, store)

    async def _submit(self, request: Request, store: str) -> Response:
        now, parsed = await self._parse(request)
        requests = parsed.requests
        for model in {item.model for item in requests}:
            self._settings.request_policy.check_model(store, model)
        key = rules.single_idempotency_key(request.headers.getlist("idempotency-key"))
        call = rules.job_id(store, key, uuid_utils.compat.uuid7())
        jobs = await asyncio.to_thread(_job_ids, len(requests), call=call if key else None)
        is_repeat = self._idempotency.find_first_request(call, now) is not None
        counted = [] if is_repeat else await self._take_queue_room(store, jobs)
        if key is not None:
            try:
                now = await self._register_key(requests, call=call, store=store, now=now)
            except (Problem, InvalidRequestError):
                self._unadmitted.remove_jobs(counted)
                raise
        messages = await asyncio.to_thread(_to_messages, requests, jobs, store=store, now=now)
        await self._publish(messages)
        log.info("bulk call accepted", store=store, items=len(messages))
        items = [_item_answer(*item) for item in enumerate(messages)]
        return JsonResponse(
            {"taken": len(messages), "items": items, "leftOut": parsed.skipped}, 201
        )

    async def _parse(self, request: Request) -> tuple[datetime, ParsedBulk]:
        """Return the arrival time and the parsed requests."""
        settings = self._settings
        media_type, content = await read_body(
            request,
            limit=settings.max_bulk_bytes,
            types=tuple(bulk_rules.READERS),
            within_s=settings.bulk_read_s,
        )
        now = datetime.now(UTC)
        common_fields = bulk_rules.parse_common_fields(
            request.query_params.multi_items(), media_type, now=now, policy=settings.request_policy
        )
        # A thread parses: megabytes of JSON and HTML would block the event loop.
        async with self._parsing:
            parsed = await asyncio.to_thread(
                bulk_rules.parse_bulk,
                content,
                media_type,
                common_fields,
                now=now,
                max_items=settings.max_bulk_items,
                policy=settings.request_policy,
            )
        return now, parsed

    async def _take_queue_room(self, store: str, jobs: Sequence[UUID]) -> Sequence[UUID]:
        """Take room in the queue for all jobs of the call; return the newly counted ones.

        The whole call fits the store's budget, its queue and the system's queue, or it is refused.
        The jobs count at once, before they have rows.
        """
        if (state := self._admission.closed_state(store)) is not None:
            raise await admission_closed(state, self._budgets, self._settings, room=0)
        waiting = await self._count_waiting(store, len(jobs))
        self._check_queue_room(
            len(jobs),
            of_store=waiting.of_store + len(self._unadmitted.jobs_of(store)),
            of_all=waiting.of_all + len(self._unadmitted),
        )
        return self._unadmitted.add_jobs(store, jobs, time.monotonic())

    async def _count_waiting(self, store: str, items: int) -> WaitingJobs:
        """Count the waiting jobs that have rows; refuse the call if the budget has no room.

        While PostgreSQL is unavailable, only the unadmitted jobs of this process count.
        """
        try:
            async with asyncio.timeout(_COUNT_DEADLINE_S):
                waiting = await self._jobs.count_waiting(store, self._unadmitted.jobs_of(store))
                row = await self._budgets.get_budget(store)
        except UNAVAILABLE_ERRORS:
            return WaitingJobs(of_store=0, of_all=0, arrived=())
        self._unadmitted.remove_jobs(waiting.arrived)
        self._unadmitted.remove_expired(time.monotonic())
        budget = budget_from_row(dict(row), default_cost=self._settings.default_cost_nanousd)
        _check_budget_room(budget, items, unadmitted=len(self._unadmitted.jobs_of(store)))
        return waiting

    def _check_queue_room(self, items: int, *, of_store: int, of_all: int) -> None:
        store_limit = self._settings.max_pending_per_store
        total_limit = self._settings.max_pending_total
        room = max(0, min(store_limit - of_store, total_limit - of_all))
        if items <= room:
            return
        headers = rate_limit_policy(store_limit)
        headers["RateLimit"] = f'"queue";r={room};t={_RETRY_AFTER_S}'
        if items <= min(store_limit, total_limit):
            headers["Retry-After"] = _RETRY_AFTER_S
        raise Problem(
            429,
            "Too Many Requests",
            detail=f"{items} items, but room for {room} (a store may have {store_limit} waiting):"
            " none was accepted",
            kind=QUEUE_FULL_TYPE,
            headers=headers,
            more={"room": room},
        )

    async def _register_key(
        self, requests: Sequence[BlogRequestBody], *, call: UUID, store: str, now: datetime
    ) -> datetime:
        """Return the time of the key's first call; refuse if that call differs."""
        fingerprint = await asyncio.to_thread(bulk_rules.bulk_fingerprint, requests)
        record = IdempotencyRecord(job=call, store=store, fingerprint=fingerprint, at=now)
        first = await await_acknowledgement(
            self._idempotency.register_key(record), store, taken=0, unknown=[]
        )
        rules.check_same_request(fingerprint, first.fingerprint)
        return first.at

    async def _publish(self, messages: Sequence[BlogRequested]) -> None:
        for start in range(0, len(messages), _BATCH_SIZE):
            batch = [
                OutgoingMessage(topic=REQUESTS, key=message.store, message=message)
                for message in messages[start : start + _BATCH_SIZE]
            ]
            try:
                await self._publisher.publish_all(batch, timeout=self._settings.publish_timeout_s)
            except (KafkaError, TimeoutError) as error:
                log.error(
                    "bulk call not acknowledged",
                    store=messages[0].store,
                    taken=start,
                    reason=f"{type(error).__name__}: {error}",
                )
                raise _partly_acknowledged(messages, start) from None


def _check_budget_room(budget: StoreBudget, items: int, *, unadmitted: int) -> None:
    """Refuse a call that does not fit the rest of the budget at the store's mean cost of a job."""
    if budget.room is None or items <= budget.room - unadmitted:
        return
    room = max(0, budget.room - unadmitted)
    detail = f"{items} items, but room for about {room} in this month's budget: none was accepted"
    raise over_budget(
        next_month_start(datetime.now(UTC)),
        detail,
        fits_full_budget=budget.fits_full_budget(items),
        room=room,
    )


def _job_ids(items: int, *, call: UUID | None) -> list[UUID]:
    """Return a job id for each item; a call with an Idempotency-Key always gets the same ids."""
    return [
        bulk_rules.item_id(call, index) if call else uuid_utils.compat.uuid7()
        for index in range(items)
    ]


def _to_messages(
    requests: Sequence[BlogRequestBody], jobs: Sequence[UUID], *, store: str, now: datetime
) -> list[BlogRequested]:
    return [
        rules.to_message(body, job=job, store=store, now=now)
        for body, job in zip(requests, jobs, strict=True)
    ]


def _item_answer(index: int, message: BlogRequested) -> dict[str, object]:
    return {
        "item": index,
        "id": message.id,
        "status": "PENDING",
        "sourceType": message.source_type,
        "sourceId": message.source_id,
    }


def _partly_acknowledged(messages: Sequence[BlogRequested], taken: int) -> Problem:
    """Return the 503 of a call that Kafka acknowledged in part.

    The first `taken` items are accepted. The batch after them may be accepted; its ids are in
    `unknown`. The rest was not sent.
    """
    unknown = [message.id for message in messages[taken : taken + _BATCH_SIZE]]
    subject = (
        f"the first {taken} of {len(messages)} items are accepted; the {len(unknown)} after them"
    )
    return unacknowledged(subject, taken=taken, unknown=unknown)
