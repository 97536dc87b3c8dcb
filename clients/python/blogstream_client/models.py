"""The HTTP API's answers as values. `raw` has all fields, also those of later versions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

ENDED = frozenset({"DONE", "FAILED", "REJECTED", "CANCELLED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    title: str
    slug: str
    meta_description: str
    html: str
    image_url: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The billed usage of providers."""

    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    reasoning_tokens: int = 0
    """The part of the output tokens that a reasoning model spent before it wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """The reason a job has not started and its wait estimate, one or two seconds old."""

    reason: str
    until: datetime | None
    place: int | None
    """The position in the queue of the store, from 1."""
    limited_by: str | None
    """The limit that keeps the whole system from starting more jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    name: str
    state: str
    """STARTED, DONE or FAILED."""
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    usage: Usage
    cost_usd: float
    in_doubt: int
    """Calls whose answer was lost: they may have been billed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job at one moment. Fields that a new job does not have yet are `None`."""

    id: str
    store: str | None
    status: str
    source_type: str
    source_id: str
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    usage: Usage
    cost_usd: float
    waiting: Waiting | None
    """While it is PENDING."""
    error: str | None
    error_code: str | None
    steps: tuple[Step, ...]
    """Not in lists."""
    post: Post | None
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A product of an export without a request."""

    source_id: str
    line: int
    """The line in the export, from 1."""
    reason: str


class Taken(list[Job]):
    """The accepted jobs, and the products of an export without a request."""

    def __init__(self, jobs: Iterable[Job] = (), *, left_out: Iterable[LeftOut] = ()) -> None:
        super().__init__(jobs)
        self.left_out = tuple(left_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A store's budget and spend of this month. Fields of a missing budget are `None`."""

    store: str
    monthly_cost_usd: float | None
    spent_usd: float
    reserved_usd: float
    remaining_usd: float | None
    state: str
    """ok, warning or stopped."""
    resets_at: datetime
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of a stream. `job` carries the job, `progress` a change of the job."""

    name: str
    data: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether this is the last event: the job after its end."""
        return self.name == "job" and self.data["status"] in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Short-lived access to one job's event stream without a key, for a browser's `EventSource`."""

    ticket: str
    url: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryAttempt:
    at: datetime
    status: int | None
    """The HTTP status of the store's server."""
    error: str | None
    """The reason why the server did not answer."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A webhook message to a store's own server, with its attempts."""

    id: str
    webhook_id: str
    job: str
    url: str
    type: str
    state: str
    """WAITING, DELIVERED or FAILED."""
    attempts: int
    next_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None
    log: tuple[DeliveryAttempt, ...]
    raw: Mapping[str, Any]


def parse_job(found: Mapping[str, Any]) -> Job:
    post, error, waiting = found.get("post"), found.get("error") or {}, found.get("waiting")
    return Job(
        id=found["id"],
        store=found.get("store"),
        status=found["status"],
        source_type=found["sourceType"],
        source_id=found["sourceId"],
        created_at=_time(found, "createdAt"),
        started_at=_time(found, "startedAt"),
        finished_at=_time(found, "finishedAt"),
        attempts=found.get("attempts", 0),
        usage=_usage(found.get("usage") or {}),
        cost_usd=found.get("costUsd", 0.0),
        waiting=_waiting(waiting) if waiting else None,
        error=error.get("message"),
        error_code=error.get("code"),
        steps=tuple(map(_step, found.get("steps", ()))),
        post=_post(post) if post else None,
        raw=found,
    )


def parse_taken(found: Mapping[str, Any]) -> Taken:
    return Taken(map(parse_job, found["items"]), left_out=map(_left_out, found.get("leftOut", ())))


def parse_ticket(found: Mapping[str, Any], base_url: str) -> Ticket:
    """Return the ticket with a complete `url`; the URL in the answer has no host."""
    return Ticket(
        ticket=found["ticket"],
        url=base_url + found["url"],
        expires_at=datetime.fromisoformat(found["expiresAt"]),
    )


def parse_delivery(found: Mapping[str, Any]) -> Delivery:
    return Delivery(
        id=found["id"],
        webhook_id=found["webhookId"],
        job=found["job"],
        url=found["url"],
        type=found["type"],
        state=found["state"],
        attempts=found["attempts"],
        next_at=_time(found, "nextAt"),
        created_at=datetime.fromisoformat(found["createdAt"]),
        delivered_at=_time(found, "deliveredAt"),
        log=tuple(map(_attempt, found["log"])),
        raw=found,
    )


def parse_budget(found: Mapping[str, Any]) -> Budget:
    return Budget(
        store=found["store"],
        monthly_cost_usd=found["monthlyCostUsd"],
        spent_usd=found["spentUsd"],
        reserved_usd=found["reservedUsd"],
        remaining_usd=found["remainingUsd"],
        state=found["state"],
        resets_at=datetime.fromisoformat(found["resetsAt"]),
        raw=found,
    )


def _post(found: Mapping[str, Any]) -> Post:
    return Post(
        title=found["title"],
        slug=found["slug"],
        meta_description=found["metaDescription"],
        html=found["html"],
        image_url=found["imageUrl"],
    )


def _left_out(found: Mapping[str, Any]) -> LeftOut:
    return LeftOut(source_id=found["sourceId"], line=found["line"], reason=found["reason"])


def _attempt(found: Mapping[str, Any]) -> DeliveryAttempt:
    return DeliveryAttempt(
        at=datetime.fromisoformat(found["at"]),
        status=found["status"],
        error=found["error"],
        seconds=found["seconds"],
    )


def _step(found: Mapping[str, Any]) -> Step:
    return Step(
        name=found["name"],
        state=found["state"],
        attempt=found["attempt"],
        started_at=datetime.fromisoformat(found["startedAt"]),
        finished_at=_time(found, "finishedAt"),
        usage=_usage(found["usage"]),
        cost_usd=found["costUsd"],
        in_doubt=found["inDoubt"],
    )


def _waiting(found: Mapping[str, Any]) -> Waiting:
    return Waiting(
        reason=found["reason"],
        until=_time(found, "until"),
        place=found.get("place"),
        limited_by=found.get("limitedBy"),
    )


def _usage(found: Mapping[str, Any]) -> Usage:
    return Usage(
        input_tokens=found.get("inputTokens", 0),
        output_tokens=found.get("outputTokens", 0),
        images=found.get("images", 0),
        reasoning_tokens=found.get("reasoningTokens", 0),
    )


def _time(found: Mapping[str, Any], name: str) -> datetime | None:
    return datetime.fromisoformat(found[name]) if found.get(name) else None
