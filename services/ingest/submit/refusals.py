"""Refusals that several handlers give."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiokafka.errors import KafkaError

from services.ingest.budgets.rules import budget_of
from services.ingest.jobs.repository import IngestStore
from services.ingest.settings import IngestSettings
from services.ingest.submit import rules
from shared.domain.messages import AdmissionState
from shared.http.responses import Problem
from shared.observability.log import get_logger
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)
T = TypeVar("T")

_LOOK_S = 1.0
"""Seconds to ask PostgreSQL: a refusal must not wait for it."""

BUDGET_EXCEEDED = "urn:blogstream:budget-exceeded"

_PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types"
QUOTA_EXCEEDED = f"{_PROBLEM_TYPES}#quota-exceeded"


def unacknowledged(what: str, **more: Any) -> Problem:
    """503: Kafka did not answer, and may have it all the same. The same once more is paid once with its
    Idempotency-Key alone: who sent none is told where to look first."""
    detail = (
        f"the event log did not acknowledge in time, so nobody knows whether {what} accepted. Sent again under the"
        " Idempotency-Key that it had, it is the same; without one, look first, lest it be done and paid twice"
    )
    return Problem(
        503, "Service Unavailable", detail=detail, headers={"Retry-After": "2"}, more=more
    )


async def acknowledged(write: Awaitable[T], store: str, **more: Any) -> T:
    """What Kafka answers, or a 503 with `more` when it does not: it may have been accepted."""
    try:
        return await write
    except (KafkaError, TimeoutError) as error:
        log.error(
            "a request could not be accepted",
            store=store,
            reason=f"{type(error).__name__}: {error}",
        )
        raise unacknowledged("the request was", **more) from None


def quota(limit: int) -> dict[str, str]:
    """How many jobs of a store may wait."""
    return {"RateLimit-Policy": f'"queue";q={limit}'}


def over_budget(
    resets_at: datetime, detail: str, *, comes_back: bool = True, **more: Any
) -> Problem:
    """402, with when the budget begins anew, if the same is worth asking for then."""
    if comes_back:
        wait = rules.retry_after((resets_at - datetime.now(UTC)).total_seconds())
        headers, detail = (
            {"Retry-After": str(wait)},
            f"{detail}; it begins anew at {resets_at:%Y-%m-%dT%H:%M:%SZ}",
        )
    else:
        headers, detail = {}, f"{detail}; a whole month's would have none either"
    return Problem(
        402,
        "Payment Required",
        detail=detail,
        kind=BUDGET_EXCEEDED,
        headers=headers,
        more={"resetsAt": resets_at, **more},
    )


async def closed(
    gate: AdmissionState, store: IngestStore, settings: IngestSettings, **more: Any
) -> Problem:
    """402 when it is the store's budget, 429 its own full queue, 503 when it is everybody's."""
    if gate.resets_at is not None:
        comes_back = await _fits_a_month(gate.store, store, settings)
        detail = "this month's budget has no room for another job"
        return over_budget(gate.resets_at, detail, comes_back=comes_back, **more)
    wait = str(rules.retry_after(gate.retry_after_s))
    detail = f"no new requests for now ({gate.reason}); come back in {wait} s"
    headers = {"Retry-After": wait}
    if gate.store == rules.ALL_STORES:
        kind = f"{_PROBLEM_TYPES}#temporary-reduced-capacity"
        return Problem(
            503, "Service Unavailable", detail=detail, kind=kind, headers=headers, more=more
        )
    headers |= quota(settings.max_pending_per_store) | {"RateLimit": f'"queue";r=0;t={wait}'}
    return Problem(
        429, "Too Many Requests", detail=detail, kind=QUOTA_EXCEEDED, headers=headers, more=more
    )


async def _fits_a_month(name: str, store: IngestStore, settings: IngestSettings) -> bool:
    """Whether one job fits a whole month's budget of a store. The door does not say so; where PostgreSQL does not
    either, it does."""
    try:
        async with asyncio.timeout(_LOOK_S):
            row = await store.budget(name)
    except UNAVAILABLE_ERRORS:
        return True
    return budget_of(dict(row), default_cost=settings.default_cost_nanousd).whole_month_fits(1)
