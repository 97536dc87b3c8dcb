"""Refusals that several handlers give."""

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiokafka.errors import KafkaError

from services.ingest import rules
from shared.http import Problem
from shared.log import get_logger
from shared.messages import StoreGate

log = get_logger(__name__)
T = TypeVar("T")

BUDGET_EXCEEDED = "urn:blogstream:budget-exceeded"

_PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types"
QUOTA_EXCEEDED = f"{_PROBLEM_TYPES}#quota-exceeded"


async def acknowledged(write: Awaitable[T], store: str) -> T:
    """What Kafka answers, or a 503 when it does not: nothing was accepted."""
    try:
        return await write
    except (KafkaError, TimeoutError) as error:
        log.error("a request could not be accepted", store=store, reason=f"{type(error).__name__}: {error}")
        raise Problem(
            503, "Service Unavailable", detail="the event log did not acknowledge; send the request again",
            headers={"Retry-After": "2"},
        ) from None  # fmt: skip


def quota(limit: int) -> dict[str, str]:
    """How many jobs of a store may wait."""
    return {"RateLimit-Policy": f'"queue";q={limit}'}


def over_budget(resets_at: datetime, detail: str, *, comes_back: bool = True, **more: Any) -> Problem:
    """402, with when the budget begins anew, and whether the same is worth asking for then."""
    wait = str(rules.retry_after((resets_at - datetime.now(UTC)).total_seconds()))
    return Problem(
        402, "Payment Required", detail=f"{detail}; it begins anew at {resets_at:%Y-%m-%dT%H:%M:%SZ}",
        kind=BUDGET_EXCEEDED, headers={"Retry-After": wait} if comes_back else {},
        more={"resetsAt": resets_at, **more},
    )  # fmt: skip


def closed(gate: StoreGate, limit: int, **more: Any) -> Problem:
    """402 when it is the store's budget, 429 its own queue, which takes `limit` jobs, 503 when it is everybody's."""
    if gate.resets_at is not None:
        return over_budget(gate.resets_at, "this month's budget has no room for another job", **more)
    wait = str(rules.retry_after(gate.retry_after_s))
    detail = f"no new requests for now ({gate.reason}); come back in {wait} s"
    headers = {"Retry-After": wait}
    if gate.store == rules.ALL_STORES:
        kind = f"{_PROBLEM_TYPES}#temporary-reduced-capacity"
        return Problem(503, "Service Unavailable", detail=detail, kind=kind, headers=headers, more=more)
    headers |= quota(limit) | {"RateLimit": f'"queue";r=0;t={wait}'}
    return Problem(429, "Too Many Requests", detail=detail, kind=QUOTA_EXCEEDED, headers=headers, more=more)
