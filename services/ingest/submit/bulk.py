"""POST /api/blog-generation/bulk: many requests in one call, all of them judged before any is taken."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat
from aiokafka.errors import KafkaError
from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Callers
from services.ingest.budgets import rules as budget_rules
from services.ingest.http.body import read_body
from services.ingest.http.concurrency_limit import Slots
from services.ingest.jobs.repository import IngestStore, Row
from services.ingest.settings import IngestSettings
from services.ingest.submit import bulk_rules, rules
from services.ingest.submit.admission import Gates
from services.ingest.submit.bulk_reservations import Underway
from services.ingest.submit.bulk_rules import Judged
from services.ingest.submit.idempotency import Claims
from services.ingest.submit.refusals import (
    QUOTA_EXCEEDED,
    acknowledged,
    closed,
    over_budget,
    quota,
    unacknowledged,
)
from services.ingest.submit.rules import BlogRequestBody, RefusedError
from shared.domain.budget import next_month_start
from shared.domain.messages import BlogRequested, IdempotencyClaim
from shared.http.responses import JsonResponse, Problem
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import REQUESTS
from shared.observability.log import get_logger
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)

_AT_ONCE = 200
"""Requests published in one go: between them, others' requests get their turn."""
_LOOK_S = 2.0
"""Seconds to ask PostgreSQL how many wait: the answer only sharpens what the doors say."""
_JUDGED_AT_ONCE = 2
"""Calls: decoded, the largest body may take half a gigabyte."""
_CALLS = 8
_CALLS_OF_ONE_STORE = 2
"""At once: the bodies of eight are at most a quarter of a gigabyte."""
_COMES_BACK_S = "30"


class Bulk:
    def __init__(
        self,
        *,
        settings: IngestSettings,
        callers: Callers,
        gates: Gates,
        claims: Claims,
        store: IngestStore,
        publisher: Publisher,
        underway: Underway,
    ) -> None:
        self._settings = settings
        self._callers = callers
        self._gates = gates
        self._claims = claims
        self._store = store
        self._publisher = publisher
        self._judging = asyncio.Semaphore(_JUDGED_AT_ONCE)
        self._underway = underway
        self._calls = Slots(
            "bulk calls", of_all=_CALLS, of_one=_CALLS_OF_ONE_STORE, retry_after_s=2
        )

    async def submit(self, request: Request) -> Response:
        """201 with an answer an item once Kafka has them all; any item at fault, and none is taken."""
        store = await self._callers.store(request)
        with self._calls.held(store):  # from its body's first byte on it takes memory
            return await self._submit(request, store)

    async def _submit(self, request: Request, store: str) -> Response:
        now, judged = await self._judged(request)
        bodies = judged.bodies
        key = rules.only_key(request.headers.getlist("idempotency-key"))
        call = rules.job_id(store, key, uuid_utils.compat.uuid7())
        jobs = await asyncio.to_thread(_jobs, len(bodies), call=call if key else None)
        promised = [] if self._claims.known(call, now) else await self._promise_room(store, jobs)
        if key is not None:
            try:
                now = await self._claim(bodies, call=call, store=store, now=now)
            except (Problem, RefusedError):
                self._underway.drop(promised)
                raise
        messages = await asyncio.to_thread(_messages, bodies, jobs, store=store, now=now)
        await self._publish(messages)
        log.info("many requests accepted", store=store, items=len(messages))
        items = [_answer(*item) for item in enumerate(messages)]
        return JsonResponse(
            {"taken": len(messages), "items": items, "leftOut": judged.left_out}, 201
        )

    async def _judged(self, request: Request) -> tuple[datetime, Judged]:
        """The requests, and when they had come."""
        settings = self._settings
        media_type, content = await read_body(
            request,
            limit=settings.max_bulk_bytes,
            types=tuple(bulk_rules.READERS),
            within_s=settings.bulk_read_s,
        )
        now, context = datetime.now(UTC), settings.judging
        given = bulk_rules.for_all(
            request.query_params.multi_items(), media_type, now=now, context=context
        )
        # Apart from the loop: megabytes of JSON, and a shop's HTML, take their time.
        async with self._judging:
            judged = await asyncio.to_thread(
                bulk_rules.judge,
                content,
                media_type,
                given,
                now=now,
                most=settings.max_bulk_items,
                context=context,
            )
        return now, judged

    async def _promise_room(self, store: str, jobs: Sequence[UUID]) -> Sequence[UUID]:
        """The whole call fits its store's budget, its queue and everybody's, or it is refused as a whole.

        What this process has promised counts from then on, not only from when it has rows. The jobs promised anew.
        """
        if (gate := self._gates.closed(store)) is not None:
            raise await closed(gate, self._store, self._settings, room=0)
        of_store, of_all = await self._counted(store, len(jobs))
        coming = len(self._underway.of(store))
        self._refuse_over_limit(len(jobs), of_store + coming, of_all + len(self._underway))
        return self._underway.add(store, jobs, time.monotonic())

    async def _counted(self, store: str, items: int) -> tuple[int, int]:
        """How many jobs have rows and wait, of the store and of all; refused when the budget has no room.

        While PostgreSQL is away, nothing is known but what was promised since: none.
        """
        try:
            async with asyncio.timeout(_LOOK_S):
                of_store, of_all, arrived = await self._store.waiting(
                    store, self._underway.of(store)
                )
                budget = await self._store.budget(store)
        except UNAVAILABLE_ERRORS:
            return 0, 0
        self._underway.drop(arrived)
        self._underway.forget(time.monotonic())
        self._refuse_over_budget(budget, items, len(self._underway.of(store)))
        return of_store, of_all

    def _refuse_over_limit(self, items: int, of_store: int, of_all: int) -> None:
        limits = self._settings.max_pending_per_store, self._settings.max_pending_total
        room = max(0, min(limits[0] - of_store, limits[1] - of_all))
        if items <= room:
            return
        detail = f"{items} items, and room for {room} (a store may have {limits[0]} waiting): none was taken"
        headers = quota(limits[0]) | {"RateLimit": f'"queue";r={room};t={_COMES_BACK_S}'}
        headers |= {"Retry-After": _COMES_BACK_S} if items <= min(limits) else {}
        raise Problem(
            429,
            "Too Many Requests",
            detail=detail,
            kind=QUOTA_EXCEEDED,
            headers=headers,
            more={"room": room},
        )

    def _refuse_over_budget(self, row: Row, items: int, coming: int) -> None:
        """The whole call fits what is left of the store's budget, each item at what its jobs cost on average."""
        budget = budget_rules.budget_of(dict(row), default_cost=self._settings.default_cost_nanousd)
        if budget.room is None or items <= budget.room - coming:
            return
        room = max(0, budget.room - coming)
        detail = f"{items} items, and room for about {room} in this month's budget: none was taken"
        comes_back = budget.whole_month_fits(items)
        raise over_budget(next_month_start(datetime.now(UTC)), detail, comes_back=comes_back, room=room)

    async def _claim(
        self, bodies: Sequence[BlogRequestBody], *, call: UUID, store: str, now: datetime
    ) -> datetime:
        """When the call of an Idempotency-Key was first made; refused when it was another one."""
        fingerprint = await asyncio.to_thread(bulk_rules.fingerprint_of, bodies)
        claim = IdempotencyClaim(job=call, store=store, fingerprint=fingerprint, at=now)
        first = await acknowledged(self._claims.first(claim), store, taken=0, unknown=[])
        rules.judge_repeat(fingerprint, first.fingerprint)
        return first.at

    async def _publish(self, messages: Sequence[BlogRequested]) -> None:
        for start in range(0, len(messages), _AT_ONCE):
            batch = [
                OutgoingMessage(topic=REQUESTS, key=message.store, message=message)
                for message in messages[start : start + _AT_ONCE]
            ]
            try:
                await self._publisher.publish_all(batch, timeout=self._settings.publish_timeout_s)
            except (KafkaError, TimeoutError) as error:
                reason = f"{type(error).__name__}: {error}"
                log.error(
                    "a bulk was not accepted whole",
                    store=messages[0].store,
                    taken=start,
                    reason=reason,
                )
                raise _cut_off(messages, start) from None


def _jobs(items: int, *, call: UUID | None) -> list[UUID]:
    """A job an item: always the same ones, when an Idempotency-Key names the call."""
    return [
        bulk_rules.item_id(call, index) if call else uuid_utils.compat.uuid7()
        for index in range(items)
    ]


def _messages(
    bodies: Sequence[BlogRequestBody], jobs: Sequence[UUID], *, store: str, now: datetime
) -> list[BlogRequested]:
    return [
        rules.to_message(body, job=job, store=store, now=now)
        for body, job in zip(bodies, jobs, strict=True)
    ]


def _answer(index: int, message: BlogRequested) -> dict[str, object]:
    return {
        "item": index,
        "id": message.id,
        "status": "PENDING",
        "sourceType": message.source_type,
        "sourceId": message.source_id,
    }


def _cut_off(messages: Sequence[BlogRequested], taken: int) -> Problem:
    """The first are accepted, the last are not, and of those between, by their ids, nobody knows."""
    unknown = [message.id for message in messages[taken : taken + _AT_ONCE]]
    what = f"more than the first {taken} of {len(messages)} items (but at most the {len(unknown)} after them) were"
    return unacknowledged(what, taken=taken, unknown=unknown)
