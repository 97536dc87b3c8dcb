"""What ingest decides: whether a request is well-formed, its id, why a job waits, where a list goes on. Pure."""

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid5

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)
from pydantic.alias_generators import to_camel

from services.ingest.webhooks.rules import ForbiddenTargetError, target
from shared.domain.api_keys import STORE_NAME
from shared.domain.budget import next_month_start
from shared.domain.job import SourceType, Status
from shared.domain.messages import AdmissionState, BlogRequested

M = TypeVar("M", bound=BaseModel)

_IDEMPOTENCY = UUID("6f1c0a52-2b1e-5d52-9d0a-7a6f2f6b9a11")
"""The namespace of ids derived from (store, Idempotency-Key)."""
ALL_STORES = "*"
"""The gate of the whole system: no store may be called so."""
LOOPBACK = "loopback"
"""The context in which a webhook may lead to this machine."""
_LARGEST_PRODUCT = 65_536
_DEEPEST_PRODUCT = 32
"""Far deeper than a shop's data, and far from where JSON readers downstream give up."""
_FURTHEST_RUN = timedelta(days=366)
_MOST_ERRORS = 50
_TEXT = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""Spaces of any kind and emoji with joiners are text: only what PostgreSQL or a log could not take is refused."""
_TEXT_NOT_BLANK = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
_IN_WORDS = {
    _TEXT: "must not contain control characters",
    _TEXT_NOT_BLANK: "must not be blank, nor contain control characters",
}
_HTTPS = r"^[hH][tT][tT][pP][sS]://[^\s/?#@]+([/?#]\S*)?$"
_HTTP_TO_THIS_MACHINE = r"http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?([/?#]\S*)?"
_NUL_IN_JSON = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})"
)


def _keepable(product: dict[str, Any]) -> dict[str, Any]:
    """What is accepted must pass every reader and PostgreSQL's jsonb behind it: a 201 is never taken back."""
    if not _shallow(product, _DEEPEST_PRODUCT):
        raise ValueError(f"must not be nested deeper than {_DEEPEST_PRODUCT} levels")
    encoded = orjson.dumps(product)
    if len(encoded) > _LARGEST_PRODUCT:
        raise ValueError(f"must not be over {_LARGEST_PRODUCT} bytes as JSON")
    if _NUL_IN_JSON.search(encoded):
        raise ValueError("must not contain the character U+0000")
    return product


def _shallow(value: Any, levels: int) -> bool:
    inner = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    )
    return inner is None or (levels > 0 and all(_shallow(item, levels - 1) for item in inner))


def _https(url: str, info: ValidationInfo) -> str:
    """With the context "loopback", for development, http to this machine as well."""
    loopback = info.context == LOOPBACK
    if not re.fullmatch(_HTTPS, url) and not (
        loopback and re.fullmatch(_HTTP_TO_THIS_MACHINE, url)
    ):
        raise ValueError("must be an https URL without credentials")
    try:
        target(url, loopback=loopback)
    except ForbiddenTargetError as error:
        raise ValueError(str(error)) from None
    return url


def _rfc3339(value: Any) -> Any:
    """Only text as in `2026-12-01T08:00:00Z`: by itself the parser would take numbers for seconds since 1970."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be a date and time with a time zone, like 2026-12-01T08:00:00Z")
    return value


def _pattern(expression: str) -> Any:
    """Says in the schema what a validator judges."""
    return Field(json_schema_extra={"pattern": expression})


Text = Annotated[str, Field(pattern=_TEXT)]
Words = Annotated[str, Field(pattern=_TEXT_NOT_BLANK, min_length=1)]
"""What a prompt is told: something must be."""


class BlogRequestBody(BaseModel):
    """The body of POST /api/blog-generation. Unknown fields are refused: a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, frozen=True)

    source_type: Annotated[SourceType, Field(strict=False)]
    source_id: Annotated[Words, Field(max_length=200)]
    title: Annotated[Words, Field(max_length=300)] | None = None
    keywords: Annotated[list[Annotated[Words, Field(max_length=100)]], Field(max_length=20)] = []
    language: Annotated[
        str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35)
    ] = "en"
    tone: Annotated[Words, Field(max_length=100)] | None = None
    product: Annotated[dict[str, Any], AfterValidator(_keepable)] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    run_at: (
        Annotated[
            AwareDatetime,
            Field(strict=False),
            BeforeValidator(_rfc3339),
            _pattern(f"^{_RFC3339.pattern}$"),
        ]
        | None
    ) = None
    webhook_url: (
        Annotated[Text, Field(max_length=2_000), AfterValidator(_https), _pattern(_HTTPS)] | None
    ) = None
    images: Annotated[int, Field(ge=0, le=1)] = 1


class RefusedError(Exception):
    """A request that cannot be taken: each field at fault, as [{"field", "detail"}]. `detail` sums them up."""

    def __init__(self, errors: list[dict[str, Any]], detail: str | None = None) -> None:
        super().__init__(
            detail or "; ".join(f"{error['field']}: {error['detail']}" for error in errors)
        )
        self.errors = errors


class NotJsonError(RefusedError):
    """A body that is no JSON at all."""


def judge_body(body: Any, *, now: datetime, context: str | None = None) -> BlogRequestBody:
    """The request in a decoded JSON body, or `RefusedError` that names each field at fault."""
    found = validated(BlogRequestBody, body, context)
    if found.run_at is not None and not now - _FURTHEST_RUN <= found.run_at <= now + _FURTHEST_RUN:
        raise RefusedError([{"field": "runAt", "detail": "must be within a year from now"}])
    return found


def validated(model: type[M], body: Any, context: str | None = None) -> M:
    """What a decoded body says, or `RefusedError` that names each field at fault."""
    try:
        return model.model_validate(body, context=context)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)[:_MOST_ERRORS]
        raise RefusedError([_fault(fault) for fault in faults]) from None


def _fault(fault: Any) -> dict[str, Any]:
    if fault["type"] == "model_type":
        return {"field": "body", "detail": "must be a JSON object"}
    known = {"extra_forbidden": "is not a known field", "missing": "is required"}
    detail = known.get(fault["type"], fault["msg"].removeprefix("Value error, "))
    if fault["type"] == "string_pattern_mismatch":
        detail = _IN_WORDS.get(fault["ctx"]["pattern"], detail)
    return {"field": ".".join(map(str, fault["loc"])), "detail": detail}


def to_message(body: BlogRequestBody, *, job: UUID, store: str, now: datetime) -> BlogRequested:
    return BlogRequested(
        id=job,
        store=store,
        created_at=now,
        source_type=body.source_type,
        source_id=body.source_id,
        title=body.title,
        keywords=tuple(body.keywords),
        language=body.language,
        tone=body.tone,
        product=body.product,
        priority=body.priority,
        run_at=body.run_at and body.run_at.astimezone(UTC),
        webhook_url=body.webhook_url,
        images=body.images,
    )


def only_key(sent: Sequence[str]) -> str | None:
    """The Idempotency-Key of a request; `RefusedError` when it came with several, as one would not be kept."""
    if len(set(sent)) > 1:
        raise RefusedError(
            [{"field": "Idempotency-Key", "detail": "was sent with several values; send one"}]
        )
    return sent[0] if sent else None


def job_id(store: str, idempotency_key: str | None, fresh: UUID) -> UUID:
    """The id of a new job: `fresh`, or always the same one for the same store and key (bare or quoted)."""
    if idempotency_key is None:
        return fresh
    key = idempotency_key.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise RefusedError(
            [{"field": "Idempotency-Key", "detail": "must be 1 to 255 printable characters"}]
        )
    return uuid5(_IDEMPOTENCY, f"{store}\n{key}")


def fingerprint(body: BlogRequestBody) -> str:
    """What tells requests apart: the same for the same fields, in whatever order, with or without their defaults."""
    understood = body.model_dump() | {"run_at": body.run_at and body.run_at.astimezone(UTC)}
    content = orjson.dumps(understood, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


def judge_repeat(asked: str, first: str) -> None:
    """`RefusedError` when a key was first used for a request with another fingerprint."""
    if asked != first:
        detail = "was used for another request; take a new key, or send that request again"
        raise RefusedError([{"field": "Idempotency-Key", "detail": detail}])


def why_waiting(row: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
    """Why a job has not begun, and until about when: what the scheduler says of its store, at this job's place."""
    if row["status"] != Status.PENDING:
        return None
    if row["not_before"] is not None and row["not_before"] > now:
        return {"reason": "not before", "until": row["not_before"]}
    if row.get("forwarded_at") is not None:
        return {"reason": "on its way to a worker", "until": None}
    before_it = row.get("before_it") or 0
    if row.get("held") and before_it >= row["queued"]:
        return {
            "reason": "budget",
            "until": next_month_start(now),
            "place": before_it + 1,
            "limitedBy": row["limited_by"],
        }
    if row.get("reason") is None:
        return {"reason": "fair turn", "until": None}
    is_first = before_it == 0 or row["reason"] != row["limited_by"]
    return {
        "reason": row["reason"] if is_first else "fair turn",
        "until": _begins_at(row, before_it, now),
        "place": before_it + 1,
        "limitedBy": row["limited_by"],
    }


def _begins_at(row: Mapping[str, Any], before_it: int, now: datetime) -> datetime | None:
    """Between when the first and the last of its store will begin, by its place; never in the past."""
    if row["first_at"] is None or row["last_at"] is None:
        return None
    part = min(before_it / (row["queued"] - 1), 1.0) if row["queued"] > 1 else 0.0
    begins: datetime = row["first_at"] + (row["last_at"] - row["first_at"]) * part
    return max(begins, now)


def door(gates: Mapping[str, AdmissionState], store: str, now: datetime) -> AdmissionState | None:
    """The gate that keeps this store's requests out, if any: the whole system's before the store's own. One that a
    budget has closed is none once the budget has begun anew, whether or not a scheduler is there to say so."""
    gate = gates.get(ALL_STORES) or gates.get(store)
    return (
        None if gate is not None and gate.resets_at is not None and gate.resets_at <= now else gate
    )


def retry_after(seconds: float) -> int:
    """Whole seconds, as the header wants them, and never none: a client told 0 comes back at once."""
    return max(1, math.ceil(seconds))


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
        return created_at.astimezone(UTC), UUID(job)
    except (ValueError, OverflowError):
        raise RefusedError(
            [{"field": "cursor", "detail": "is not one that this list has given"}]
        ) from None


def judge_parameters(given: Sequence[str], known: Iterable[str]) -> None:
    """`RefusedError` for names that are not known, and for those given twice: one of the two would not be kept."""
    unknown = [(name, "is not a known parameter") for name in sorted(set(given).difference(known))]
    repeated = [
        (name, "is given more than once")
        for name, times in sorted(Counter(given).items())
        if times > 1
    ]
    if faults := unknown or repeated:
        raise RefusedError([{"field": name, "detail": detail} for name, detail in faults])


def read_job(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise RefusedError([{"field": "job", "detail": "must be a job's id"}]) from None


def listed_store(own: str | None, asked: str | None) -> str:
    """Whose jobs to list: a store's own; an operator, who has none (None), says which."""
    if own is None and asked is None:
        raise RefusedError([{"field": "store", "detail": "is required with an operator's key"}])
    if own is not None and asked not in (None, own):
        raise RefusedError([{"field": "store", "detail": "must be the store of the key"}])
    if asked is not None and not is_store(asked):
        raise RefusedError([{"field": "store", "detail": "must be a store's name"}])
    return own or str(asked)


def is_store(text: str) -> bool:
    """Whether a store may be called so."""
    return STORE_NAME.fullmatch(text) is not None


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
