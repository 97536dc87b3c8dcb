"""Decides whether a request is valid, its id and fingerprint, and whether admission is closed.

Pure.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID, uuid5

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)
from pydantic.alias_generators import to_camel

from services.ingest.http.rules import NonBlankText, Text, invalid_field, parse_model
from services.ingest.webhooks.rules import ForbiddenTargetError, parse_target
from shared.domain.job import SourceType
from shared.domain.messages import AdmissionState, BlogRequested
from shared.domain.stores import ALL_STORES

_IDEMPOTENCY_NAMESPACE = UUID("6f1c0a52-2b1e-5d52-9d0a-7a6f2f6b9a11")
"""The namespace of ids derived from (store, Idempotency-Key)."""
_MAX_PRODUCT_BYTES = 65_536
_MAX_PRODUCT_DEPTH = 32
"""Far deeper than a shop's data, and far below the limits of JSON readers downstream."""
_MAX_RUN_DISTANCE = timedelta(days=366)
_HTTPS = r"^[hH][tT][tT][pP][sS]://[^\s/?#@]+([/?#]\S*)?$"
_LOOPBACK_HTTP = r"http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?([/?#]\S*)?"
_NUL_IN_JSON = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})"
)


def _check_product(product: dict[str, Any]) -> dict[str, Any]:
    """Refuse data that a later reader or PostgreSQL's jsonb cannot take: a 201 is final."""
    if not _is_within_depth(product, _MAX_PRODUCT_DEPTH):
        raise ValueError(f"must not be nested deeper than {_MAX_PRODUCT_DEPTH} levels")
    encoded = orjson.dumps(product)
    if len(encoded) > _MAX_PRODUCT_BYTES:
        raise ValueError(f"must not be over {_MAX_PRODUCT_BYTES} bytes as JSON")
    if _NUL_IN_JSON.search(encoded):
        raise ValueError("must not contain the character U+0000")
    return product


def _is_within_depth(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return True
    return levels > 0 and all(_is_within_depth(item, levels - 1) for item in value)


def _policy(info: ValidationInfo) -> "RequestPolicy":
    assert isinstance(info.context, RequestPolicy)
    return info.context


def _check_webhook_url(url: str, info: ValidationInfo) -> str:
    """Accept https URLs, and http to this machine if the policy allows it."""
    loopback = _policy(info).loopback
    if not re.fullmatch(_HTTPS, url) and not (loopback and re.fullmatch(_LOOPBACK_HTTP, url)):
        raise ValueError("must be an https URL without credentials")
    try:
        parse_target(url, loopback=loopback)
    except ForbiddenTargetError as error:
        raise ValueError(str(error)) from None
    return url


def _check_model(model: str, info: ValidationInfo) -> str:
    """Accept the models of `PROVIDERS_FILE`."""
    models = _policy(info).models
    if not models:
        raise ValueError("cannot be chosen here: the operator offers no models to choose from")
    if model not in models:
        raise ValueError(f"must be one of {', '.join(models)}")
    return model


def _check_rfc3339(value: Any) -> Any:
    """Accept only text such as `2026-12-01T08:00:00Z`; pydantic also takes numbers as seconds."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be a date and time with a time zone, like 2026-12-01T08:00:00Z")
    return value


def _schema_pattern(expression: str) -> Any:
    """Show in the JSON schema the pattern that a validator checks."""
    return Field(json_schema_extra={"pattern": expression})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPolicy:
    """What this installation allows in a request."""

    loopback: bool = False
    """A webhook may address this machine."""
    models: tuple[str, ...] = ()
    """The models that a request may name."""
    pinned_models: Mapping[str, str] = field(default_factory=dict)
    """The model of each store that is pinned to an account."""

    def check_model(self, store: str, model: str | None) -> None:
        """Refuse a model that a pinned store's account does not have."""
        pinned = self.pinned_models.get(store)
        if model is not None and pinned is not None and model != pinned:
            raise invalid_field("model", f"must be {pinned} for this store")


class BlogRequestBody(BaseModel):
    """The body of POST /api/blog-generation. Unknown fields are refused, so no typo is ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, frozen=True)

    source_type: Annotated[SourceType, Field(strict=False)]
    source_id: Annotated[NonBlankText, Field(max_length=200)]
    title: Annotated[NonBlankText, Field(max_length=300)] | None = None
    keywords: Annotated[
        list[Annotated[NonBlankText, Field(max_length=100)]], Field(max_length=20)
    ] = []
    language: Annotated[
        str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", max_length=35)
    ] = "en"
    tone: Annotated[NonBlankText, Field(max_length=100)] | None = None
    product: Annotated[dict[str, Any], AfterValidator(_check_product)] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    run_at: (
        Annotated[
            AwareDatetime,
            Field(strict=False),
            BeforeValidator(_check_rfc3339),
            _schema_pattern(f"^{_RFC3339.pattern}$"),
        ]
        | None
    ) = None
    webhook_url: (
        Annotated[
            Text,
            Field(max_length=2_000),
            AfterValidator(_check_webhook_url),
            _schema_pattern(_HTTPS),
        ]
        | None
    ) = None
    images: Annotated[int, Field(ge=0, le=1)] = 1
    model: Annotated[Text, Field(max_length=200), AfterValidator(_check_model)] | None = None


def parse_request(
    body: Any, *, now: datetime, policy: RequestPolicy = RequestPolicy()
) -> BlogRequestBody:
    """Validate a decoded JSON body. Raises `InvalidRequestError` with every invalid field."""
    request = parse_model(BlogRequestBody, body, policy)
    run_at = request.run_at
    if run_at is not None and not now - _MAX_RUN_DISTANCE <= run_at <= now + _MAX_RUN_DISTANCE:
        raise invalid_field("runAt", "must be within a year from now")
    return request


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
        model=body.model,
    )


def single_idempotency_key(values: Sequence[str]) -> str | None:
    """Return the request's Idempotency-Key, if any; refuse several different values."""
    if len(set(values)) > 1:
        raise invalid_field("Idempotency-Key", "was sent with several values; send one")
    return values[0] if values else None


def job_id(store: str, idempotency_key: str | None, fresh: UUID) -> UUID:
    """Return the id of a new job: `fresh`, or the id derived from store and key.

    A key means the same bare or in double quotes.
    """
    if idempotency_key is None:
        return fresh
    key = idempotency_key.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise invalid_field("Idempotency-Key", "must be 1 to 255 printable characters")
    return uuid5(_IDEMPOTENCY_NAMESPACE, f"{store}\n{key}")


def fingerprint(body: BlogRequestBody) -> str:
    """Hash a request; the order of fields and explicit default values do not change the hash.

    A field that is newer than the first release counts only if it is set, so that the requests of
    older idempotency keys keep their fingerprints.
    """
    fields = body.model_dump() | {"run_at": body.run_at and body.run_at.astimezone(UTC)}
    if body.model is None:
        del fields["model"]
    content = orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


def check_same_request(fingerprint: str, first: str) -> None:
    """Refuse a request whose fingerprint differs from that of its key's first request."""
    if fingerprint != first:
        detail = "was used for another request; send a new key, or that request again"
        raise invalid_field("Idempotency-Key", detail)


def closed_state(
    states: Mapping[str, AdmissionState], store: str, now: datetime
) -> AdmissionState | None:
    """Return the state that refuses this store's requests; `None` while admission is open.

    The state of all stores precedes the store's own. A state that a budget has closed expires when
    the budget resets, even while no scheduler runs to open it.
    """
    state = states.get(ALL_STORES) or states.get(store)
    if state is not None and state.resets_at is not None and state.resets_at <= now:
        return None
    return state
