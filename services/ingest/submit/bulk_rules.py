"""Parses many requests in one body: a JSON array, JSON lines, or a Shopify product export. Pure.

A body with one invalid item is refused as a whole.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import orjson

from services.ingest.http.rules import (
    InvalidRequestError,
    NotJsonError,
    check_parameters,
    invalid_field,
)
from services.ingest.submit.rules import (
    BlogRequestBody,
    RequestPolicy,
    fingerprint,
    parse_request,
)
from shared.domain import shopify

CSV = "text/csv"
CSV_PARAMETERS = ("language", "tone", "images", "priority", "runAt", "webhookUrl", "model")
"""The request fields that the query of a CSV may set for all products."""
MAX_ERRORS = 1_000
_NUMBER = re.compile(r"-?[0-9]{1,3}")
_UNPUBLISHED = ("draft", "archived")
Position = dict[str, int]
"""Where an item stands in its body: {"item"} counts from 0, {"line"} from 1; one or both."""
Reader = Callable[[bytes], Iterator[tuple[Position, Any]]]


@dataclass(frozen=True, slots=True)
class SkippedProduct:
    """A product that gets no post."""

    source_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ParsedBulk:
    requests: list[BlogRequestBody]
    skipped: list[dict[str, Any]]
    """The skipped products, as the response lists them."""


def parse_common_fields(
    query: Sequence[tuple[str, str]], media_type: str, *, now: datetime, policy: RequestPolicy
) -> dict[str, Any]:
    """Parse the query parameters that set fields of every item.

    Only a CSV takes them: an export has no such columns, and JSON items hold the fields themselves.
    """
    check_parameters([name for name, _ in query], CSV_PARAMETERS if media_type == CSV else ())
    fields: dict[str, Any] = dict(query)
    for name in {"images", "priority"} & fields.keys():
        fields[name] = int(fields[name]) if _NUMBER.fullmatch(fields[name]) else fields[name]
    parse_request({"sourceType": "product", "sourceId": "any"} | fields, now=now, policy=policy)
    return fields


def parse_bulk(
    content: bytes,
    media_type: str,
    common_fields: Mapping[str, Any],
    *,
    now: datetime,
    max_items: int,
    policy: RequestPolicy,
) -> ParsedBulk:
    """Parse all requests of a body. Raises `InvalidRequestError` with every invalid item."""
    parsed, errors, count = ParsedBulk([], []), list[dict[str, Any]](), 0
    for position, item in READERS[media_type](content):
        if isinstance(item, SkippedProduct):
            parsed.skipped.append(position | {"sourceId": item.source_id, "reason": item.reason})
            continue
        count += 1
        if count > max_items:
            raise invalid_field("body", f"has more than {max_items} items: send several calls")
        try:
            fields = _with_common_fields(item, common_fields)
            parsed.requests.append(parse_request(fields, now=now, policy=policy))
        except InvalidRequestError as error:
            errors += [position | field_error for field_error in error.errors]
    if errors:
        invalid = len({(error.get("item"), error.get("line")) for error in errors})
        detail = f"{invalid} of {count} items are invalid; none was accepted"
        raise InvalidRequestError(errors[:MAX_ERRORS], detail=detail)
    if not parsed.requests:
        skipped = f": {len(parsed.skipped)} were left out" if parsed.skipped else ""
        raise invalid_field("body", f"has no items{skipped}")
    return parsed


def bulk_fingerprint(requests: Sequence[BlogRequestBody]) -> str:
    """Hash the fingerprints of all requests in their order."""
    return hashlib.sha256("".join(map(fingerprint, requests)).encode()).hexdigest()[:32]


def item_id(call: UUID, index: int) -> UUID:
    """Return the job id of an item of a call with an Idempotency-Key."""
    return uuid5(call, str(index))


def product_request(product: shopify.Product) -> dict[str, Any]:
    """Return the request for a post about a product."""
    return {
        "sourceType": "product",
        "sourceId": product.handle,
        "title": product.title,
        "product": product.as_prompt_data(),
    }


def skip_reason(product: shopify.Product) -> str | None:
    """Return why a product gets no post; `None` when it gets one."""
    return f"its Status is {product.status}" if product.status in _UNPUBLISHED else None


def _with_common_fields(item: Any, fields: Mapping[str, Any]) -> Any:
    """Merge the common fields into an item. Raises the error that a reader put in its place."""
    if isinstance(item, InvalidRequestError):
        raise item
    return {**item, **fields} if fields else item


def _read_array(content: bytes) -> Iterator[tuple[Position, Any]]:
    try:
        items = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise NotJsonError(str(error)) from None
    if not isinstance(items, list):
        raise invalid_field("body", "must be a JSON array")
    for index, item in enumerate(items):
        yield {"item": index}, item


def _read_lines(content: bytes) -> Iterator[tuple[Position, Any]]:
    index = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            item = invalid_field("body", f"is not JSON: {error}")
        yield {"item": index, "line": number}, item
        index += 1


def _read_export(content: bytes) -> Iterator[tuple[Position, Any]]:
    if content.strip() and b"\n" not in content and b"\r" not in content:
        detail = "is a single line, at best a header; send it with curl --data-binary, not -d"
        raise invalid_field("body", detail)
    try:
        export = shopify.parse_export(io.StringIO(content.decode("utf-8-sig"), newline=""))
    except ValueError as error:  # includes UnicodeDecodeError
        raise invalid_field("body", str(error)) from None
    for fault in export.faults:
        yield {"line": fault.line}, invalid_field("row", fault.reason)
    for product in export.products:
        reason = skip_reason(product)
        item = SkippedProduct(product.handle, reason) if reason else product_request(product)
        yield {"line": product.line}, item


READERS: dict[str, Reader] = {
    "application/json": _read_array,
    "application/x-ndjson": _read_lines,
    CSV: _read_export,
}
