"""The refusals of the submit handlers: budget, backpressure, and a missing acknowledgement."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiokafka.errors import KafkaError

from services.ingest.budgets.repository import BudgetRepository
from services.ingest.budgets.rules import budget_from_row
from services.ingest.http.rules import retry_after_seconds
from services.ingest.settings import IngestSettings
from shared.domain.messages import AdmissionState
from shared.domain.stores import ALL_STORES
from shared.http.responses import Problem
from shared.observability.log import get_logger
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)
T = TypeVar("T")

_BUDGET_DEADLINE_S = 1.0
"""A refusal must not wait longer for PostgreSQL."""

_PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types"
BUDGET_EXCEEDED = "urn:blogstream:budget-exceeded"
QUEUE_FULL_TYPE = f"{_PROBLEM_TYPES}#quota-exceeded"
REDUCED_CAPACITY = f"{_PROBLEM_TYPES}#temporary-reduced-capacity"


def unacknowledged(subject: str, **more: Any) -> Problem:
    """Return the 503 for requests that Kafka has not acknowledged but may hold.

    Only a retry with the same Idempotency-Key is safe from paying twice.
    """
    detail = (
        f"the event log did not acknowledge in time; {subject} may have been accepted. Retry with"
        " the same Idempotency-Key. Without one, check first, or the post is made and paid twice"
    )
    return Problem(
        503, "Service Unavailable", detail=detail, headers={"Retry-After": "2"}, more=more
    )


async def await_acknowledgement(write: Awaitable[T], store: str, **more: Any) -> T:
    """Await a write to Kafka; 503 with `more` when it is not acknowledged."""
    try:
        return await write
    except (KafkaError, TimeoutError) as error:
        reason = f"{type(error).__name__}: {error}"
        log.error("request not acknowledged", store=store, reason=reason)
        raise unacknowledged("the request", **more) from None


def rate_limit_policy(limit: int) -> dict[str, str]:
    """Return the header with the number of jobs that a store may have waiting."""
    return {"RateLimit-Policy": f'"queue";q={limit}'}


def over_budget(
    resets_at: datetime, detail: str, *, fits_full_budget: bool = True, **more: Any
) -> Problem:
    """Return the 402. It names a time to retry unless even a full budget has no room."""
    headers = {}
    if fits_full_budget:
        wait = retry_after_seconds((resets_at - datetime.now(UTC)).total_seconds())
        headers["Retry-After"] = str(wait)
        detail = f"{detail}; it resets at {resets_at:%Y-%m-%dT%H:%M:%SZ}"
    else:
        detail = f"{detail}; the budget of a whole month has no room either"
    return Problem(
        402,
        "Payment Required",
        detail=detail,
        kind=BUDGET_EXCEEDED,
        headers=headers,
        more={"resetsAt": resets_at, **more},
    )


async def admission_closed(
    state: AdmissionState, budgets: BudgetRepository, settings: IngestSettings, **more: Any
) -> Problem:
    """Return 402 for the store's budget, 429 for its full queue, 503 for a full system."""
    if state.resets_at is not None:
        return over_budget(
            state.resets_at,
            "this month's budget has no room for another job",
            fits_full_budget=await _job_fits_full_budget(state.store, budgets, settings),
            **more,
        )
    wait = str(retry_after_seconds(state.retry_after_s))
    detail = f"no new requests for now ({state.reason}); retry in {wait} s"
    headers = {"Retry-After": wait}
    if state.store == ALL_STORES:
        return Problem(
            503,
            "Service Unavailable",
            detail=detail,
            kind=REDUCED_CAPACITY,
            headers=headers,
            more=more,
        )
    headers |= rate_limit_policy(settings.max_pending_per_store)
    headers["RateLimit"] = f'"queue";r=0;t={wait}'
    return Problem(
        429, "Too Many Requests", detail=detail, kind=QUEUE_FULL_TYPE, headers=headers, more=more
    )


async def _job_fits_full_budget(
    store: str, budgets: BudgetRepository, settings: IngestSettings
) -> bool:
    """Return whether one job fits a whole month's budget; true while PostgreSQL is unavailable."""
    try:
        async with asyncio.timeout(_BUDGET_DEADLINE_S):
            row = await budgets.get_budget(store)
    except UNAVAILABLE_ERRORS:
        return True
    budget = budget_from_row(dict(row), default_cost=settings.default_cost_nanousd)
    return budget.fits_full_budget(1)
