"""The fields of a request, and their conversion from Python to the HTTP API."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Required, TypeAlias, TypedDict
from uuid import UUID

SourceType: TypeAlias = Literal["keyword", "product", "topic"]


class WritingOptions(TypedDict, total=False):
    """Options of the text and the time. `None` is the same as no value."""

    language: str | None
    tone: str | None
    priority: int | None
    """-100 to 100, within the store."""
    run_at: datetime | str | None
    """The earliest start, with a time zone."""
    webhook_url: str | None
    images: Literal[0, 1] | None
    model: str | None
    """A model that the operator offers."""


class Fields(WritingOptions, total=False):
    """The options and the subject of a request."""

    title: str | None
    keywords: Sequence[str] | None
    product: Mapping[str, Any] | None
    """Any JSON object up to 64 KiB."""


class Request(Fields, total=False):
    """One request of `submit_many`."""

    source_type: Required[SourceType]
    source_id: Required[str]


_NAMES = {
    "source_type": "sourceType",
    "source_id": "sourceId",
    "run_at": "runAt",
    "webhook_url": "webhookUrl",
}
_IDEMPOTENCY_KEY = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")
_STORE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}")


def request_body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request's JSON fields. Names of the HTTP API are accepted as well.

    Raises ValueError for a time without a zone, and for a field given by both names.
    """
    values = {name: value for name, value in fields.items() if value is not None}
    for python_name, api_name in _NAMES.items():
        if python_name in values and api_name in values:
            raise ValueError(f"{python_name} and {api_name} are one field: give it by one name")
    body = {_NAMES.get(name, name): value for name, value in values.items()}
    at = body.get("runAt")
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ValueError("run_at needs a time zone")
        body["runAt"] = at.isoformat()
    return body


def json_body(body: Any) -> dict[str, Any]:
    """Return httpx's arguments for a JSON body.

    Times and UUIDs within a product become text; other non-JSON types raise TypeError.
    """
    content = json.dumps(body, default=_to_text, ensure_ascii=False, allow_nan=False).encode()
    return {"content": content, "headers": {"Content-Type": "application/json"}}


def _to_text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def path_id(found: str | UUID) -> str:
    """Return an id for use in a path. Raises ValueError for other text, which may be a path."""
    return str(found if isinstance(found, UUID) else UUID(found))


def path_store(name: str) -> str:
    """Return a store's name for use in a path. Raises ValueError for an invalid name."""
    if not _STORE.fullmatch(name):
        raise ValueError(f"{name!r} is no store's name")
    return name


def idempotency_key(key: str) -> dict[str, str]:
    """Return the idempotency header. Raises ValueError for keys that HTTP would alter."""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ValueError(
            "an idempotency key is 1 to 255 ASCII characters without control characters"
        )
    return {"Idempotency-Key": key}
