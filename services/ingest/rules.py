"""What ingest decides: whether a request is well-formed, its id, why a job waits, where a list goes on. Pure."""

import base64
import re
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID, uuid5

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from shared.job import SourceType, Status
from shared.messages import BlogRequested

_IDEMPOTENCY = UUID("6f1c0a52-2b1e-5d52-9d0a-7a6f2f6b9a11")
"""The namespace of ids derived from (store, Idempotency-Key)."""
_LARGEST_PRODUCT = 65_536
_LATEST_RUN = timedelta(days=366)


def _no_control_characters(text: str) -> str:
    if any(not character.isprintable() for character in text):
        raise ValueError("must not contain control characters")
    return text


def _small_enough(product: dict[str, Any] | None) -> dict[str, Any] | None:
    if product is not None and len(orjson.dumps(product)) > _LARGEST_PRODUCT:
        raise ValueError(f"must not be over {_LARGEST_PRODUCT} bytes as JSON")
    return product


def _https(url: str | None) -> str | None:
    if url is not None and not re.match(r"^https://[^\s/@]+(/\S*)?$", url):
        raise ValueError("must be an https URL without credentials")
    return url


Text = Annotated[str, AfterValidator(_no_control_characters)]


class BlogRequestBody(BaseModel):
    """The body of POST /api/blog-generation. Unknown fields are refused: a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, frozen=True)

    source_type: Annotated[SourceType, Field(strict=False)]
    source_id: Annotated[Text, Field(min_length=1, max_length=200)]
    title: Annotated[Text, Field(min_length=1, max_length=300)] | None = None
    keywords: Annotated[list[Annotated[Text, Field(min_length=1, max_length=100)]], Field(max_length=20)] = []
    language: Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35)] = "en"
    tone: Annotated[Text, Field(min_length=1, max_length=100)] | None = None
    product: Annotated[dict[str, Any] | None, AfterValidator(_small_enough)] = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    run_at: Annotated[AwareDatetime, Field(strict=False)] | None = None
    webhook_url: Annotated[str | None, Field(max_length=2_000), AfterValidator(_https)] = None
    images: Annotated[int, Field(ge=0, le=1)] = 1


class RefusedError(Exception):
    """A request that cannot be taken: each field at fault, as [{"field", "detail"}]."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__("; ".join(f"{error['field']}: {error['detail']}" for error in errors))
        self.errors = errors


def judge_body(body: Any, *, now: datetime) -> BlogRequestBody:
    """The request in a decoded JSON body, or `RefusedError` that names each field at fault."""
    try:
        found = BlogRequestBody.model_validate(body)
    except ValidationError as error:
        raise RefusedError([_fault(fault) for fault in error.errors(include_url=False, include_input=False)]) from None
    if found.run_at is not None and found.run_at > now + _LATEST_RUN:
        raise RefusedError([{"field": "runAt", "detail": "must be within a year"}])
    return found


def _fault(fault: Any) -> dict[str, Any]:
    if fault["type"] == "model_type":
        return {"field": "body", "detail": "must be a JSON object"}
    detail = {"extra_forbidden": "is not a known field", "missing": "is required"}.get(fault["type"], fault["msg"])
    return {"field": ".".join(map(str, fault["loc"])), "detail": detail}


def to_message(body: BlogRequestBody, *, job: UUID, store: str, now: datetime) -> BlogRequested:
    return BlogRequested(
        id=job, store=store, created_at=now, source_type=body.source_type, source_id=body.source_id,
        title=body.title, keywords=tuple(body.keywords), language=body.language, tone=body.tone,
        product=body.product, priority=body.priority, run_at=body.run_at, webhook_url=body.webhook_url,
        images=body.images,
    )  # fmt: skip


def job_id(store: str, idempotency_key: str | None, fresh: UUID) -> UUID:
    """The id of a new job: `fresh`, or always the same one for the same store and key (bare or quoted)."""
    if idempotency_key is None:
        return fresh
    key = idempotency_key.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise RefusedError([{"field": "Idempotency-Key", "detail": "must be 1 to 255 printable characters"}])
    return uuid5(_IDEMPOTENCY, f"{store}\n{key}")


def why_waiting(status: Status, not_before: datetime | None, now: datetime) -> dict[str, Any] | None:
    """Why a job has not begun, and until when if that is known."""
    if status is not Status.PENDING:
        return None
    if not_before is not None and not_before > now:
        return {"reason": "not before", "until": not_before}
    return {"reason": "fair turn", "until": None}


def cursor_of(created_at: datetime, job: UUID) -> str:
    """Where a list goes on, opaque to the reader."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {job}".encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, job = text.partition(" ")
        created_at = datetime.fromisoformat(at)
        if created_at.tzinfo is None:
            raise ValueError("a time without a zone")
        return created_at, UUID(job)
    except ValueError:
        raise RefusedError([{"field": "cursor", "detail": "is not one that this list has given"}]) from None


def read_status(text: str) -> Status:
    try:
        return Status(text)
    except ValueError:
        known = ", ".join(Status)
        raise RefusedError([{"field": "status", "detail": f"must be one of {known}"}]) from None


def read_limit(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= 100:
        raise RefusedError([{"field": "limit", "detail": "must be a number from 1 to 100"}])
    return int(text)
