"""Refusals that several handlers give."""

from collections.abc import Awaitable
from typing import TypeVar

from aiokafka.errors import KafkaError

from services.ingest import rules
from shared.http import Problem
from shared.log import get_logger
from shared.messages import StoreGate

log = get_logger(__name__)
T = TypeVar("T")

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


def closed(gate: StoreGate, limit: int) -> Problem:
    """429 when it is the store's own queue, which takes `limit` jobs, 503 when it is everybody's."""
    wait = str(rules.retry_after(gate))
    detail = f"no new requests for now ({gate.reason}); come back in {wait} s"
    headers = {"Retry-After": wait}
    if gate.store == rules.ALL_STORES:
        kind = f"{_PROBLEM_TYPES}#temporary-reduced-capacity"
        return Problem(503, "Service Unavailable", detail=detail, kind=kind, headers=headers)
    headers |= quota(limit) | {"RateLimit": f'"queue";r=0;t={wait}'}
    return Problem(429, "Too Many Requests", detail=detail, kind=QUOTA_EXCEEDED, headers=headers)
