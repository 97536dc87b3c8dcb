"""Many requests in one body: a JSON array, JSON lines, or a Shopify product export. Judged as a whole. Pure."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import orjson

from services.ingest.rules import BlogRequestBody, RefusedError, fingerprint, judge_body
from shared import shopify

MOST_ERRORS = 1_000
Where = dict[str, int]
"""Of an item: {"item"} counted from 0, {"line"} counted from 1, or both."""
Read = Callable[[bytes], Iterator[tuple[Where, Any]]]


def judge(
    content: bytes, media_type: str, *, now: datetime, most: int, context: str | None = None
) -> list[BlogRequestBody]:
    """All requests of a body; `RefusedError` names every item at fault, and nothing is taken then."""
    found, errors = list[BlogRequestBody](), list[dict[str, Any]]()
    count = 0
    for count, (where, item) in enumerate(READERS[media_type](content), start=1):
        if count > most:
            raise RefusedError([{"field": "body", "detail": f"has more than {most} items: send several calls"}])
        try:
            found.append(judge_body(_readable(item), now=now, context=context))
        except RefusedError as error:
            errors += [where | fault for fault in error.errors]
    if errors:
        faulty = len({(error.get("item"), error.get("line")) for error in errors})
        raise RefusedError(errors[:MOST_ERRORS], detail=f"{faulty} of {count} items cannot be taken, so none was")
    if not found:
        raise RefusedError([{"field": "body", "detail": "has no items"}])
    return found


def fingerprint_of(bodies: Sequence[BlogRequestBody]) -> str:
    """As `rules.fingerprint`, of all of them in their order."""
    return hashlib.sha256("".join(map(fingerprint, bodies)).encode()).hexdigest()[:32]


def item_id(call: UUID, index: int) -> UUID:
    """The job of an item, when an Idempotency-Key names the whole call."""
    return uuid5(call, str(index))


def request_of(product: shopify.Product) -> dict[str, Any]:
    """What is asked for when a shop asks for a post about a product."""
    return {
        "sourceType": "product", "sourceId": product.handle, "title": product.title, "product": product.as_data(),
    }  # fmt: skip


def _readable(item: Any) -> Any:
    """An item, unless the reader has found a fault in its place."""
    if isinstance(item, RefusedError):
        raise item
    return item


def _fault(detail: str, field: str = "body") -> RefusedError:
    return RefusedError([{"field": field, "detail": detail}])


def _array(content: bytes) -> Iterator[tuple[Where, Any]]:
    try:
        items = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise _fault(f"is not JSON: {error}") from None
    if not isinstance(items, list):
        raise _fault("must be a JSON array")
    for index, item in enumerate(items):
        yield {"item": index}, item


def _lines(content: bytes) -> Iterator[tuple[Where, Any]]:
    index = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            item = _fault(f"is not JSON: {error}")
        yield {"item": index, "line": number}, item
        index += 1


def _export(content: bytes) -> Iterator[tuple[Where, Any]]:
    try:
        export = shopify.parse(io.StringIO(content.decode("utf-8-sig"), newline=""))
    except ValueError as error:  # UnicodeDecodeError is one
        raise _fault(str(error)) from None
    for fault in export.faults:
        yield {"line": fault.line}, _fault(fault.reason, field="row")
    for product in export.products:
        yield {"line": product.line}, request_of(product)


READERS: dict[str, Read] = {"application/json": _array, "application/x-ndjson": _lines, "text/csv": _export}
