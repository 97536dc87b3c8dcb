"""What is asked for, in Python's names, as the interface reads it."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Required, TypeAlias, TypedDict
from uuid import UUID

SourceType: TypeAlias = Literal["keyword", "product", "topic"]


class WritingOptions(TypedDict, total=False):
    """How to write, and when; None is as good as left out."""

    language: str | None
    tone: str | None
    priority: int | None
    """-100 to 100, within the store."""
    run_at: datetime | str | None
    """Not before this time, which has a zone."""
    webhook_url: str | None
    images: Literal[0, 1] | None


class Fields(WritingOptions, total=False):
    """And what about."""

    title: str | None
    keywords: Sequence[str] | None
    product: Mapping[str, Any] | None
    """Any JSON object up to 64 KiB."""


class Request(Fields, total=False):
    """One of many."""

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
    """The interface's names are taken as well. ValueError for a time without a zone, and for a field by both names."""
    given = {name: value for name, value in fields.items() if value is not None}
    for ours, theirs in _NAMES.items():
        if ours in given and theirs in given:
            raise ValueError(f"{ours} and {theirs} are one field: give it by one name")
    named = {_NAMES.get(name, name): value for name, value in given.items()}
    at = named.get("runAt")
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise ValueError("run_at needs a time zone")
        named["runAt"] = at.isoformat()
    return named


def json_body(body: Any) -> dict[str, Any]:
    """httpx's arguments for a body. Times and ids within a product are written as text, other strangers refused."""
    content = json.dumps(body, default=_plain, ensure_ascii=False, allow_nan=False).encode()
    return {"content": content, "headers": {"Content-Type": "application/json"}}


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def path_id(found: str | UUID) -> str:
    """What may stand in a path. ValueError when it is no id: it might be another path."""
    return str(found if isinstance(found, UUID) else UUID(found))


def path_store(name: str) -> str:
    """A store's name, as it may stand in a path."""
    if not _STORE.fullmatch(name):
        raise ValueError(f"{name!r} is no store's name")
    return name


def idempotency_key(key: str) -> dict[str, str]:
    """The header. ValueError for what would not arrive as it is."""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ValueError(
            "an idempotency key is 1 to 255 ASCII characters, none of them for control"
        )
    return {"Idempotency-Key": key}
