"""Many requests in one body: a JSON array, JSON lines, or a Shopify product export. Judged as a whole. Pure."""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import orjson

from services.ingest.submit.rules import (
    BlogRequestBody,
    NotJsonError,
    RefusedError,
    fingerprint,
    judge_body,
    judge_parameters,
)
from shared.domain import shopify

CSV = "text/csv"
FOR_ALL = ("language", "tone", "images", "priority", "runAt", "webhookUrl")
"""Of the fields of a request, those that the query of a CSV may have, for all of its products."""
MOST_ERRORS = 1_000
_NUMBER = re.compile(r"-?[0-9]{1,3}")
_NOT_SHOWN = ("draft", "archived")
Where = dict[str, int]
"""Of an item: {"item"} counted from 0, {"line"} counted from 1, or both."""
Read = Callable[[bytes], Iterator[tuple[Where, Any]]]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A product that nobody is to read of."""

    source_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Judged:
    bodies: list[BlogRequestBody]
    left_out: list[dict[str, Any]]
    """What of a body is not asked for, as the answer tells it."""


def for_all(
    query: Sequence[tuple[str, str]], media_type: str, *, now: datetime, context: str | None = None
) -> dict[str, Any]:
    """What the query of a call says of every item: a shop's export has no words for it, and JSON says it itself."""
    judge_parameters([name for name, _ in query], FOR_ALL if media_type == CSV else ())
    given: dict[str, Any] = dict(query)
    for name in {"images", "priority"} & given.keys():
        given[name] = int(given[name]) if _NUMBER.fullmatch(given[name]) else given[name]
    judge_body({"sourceType": "product", "sourceId": "any"} | given, now=now, context=context)
    return given


def judge(
    content: bytes,
    media_type: str,
    given: Mapping[str, Any],
    *,
    now: datetime,
    most: int,
    context: str | None = None,
) -> Judged:
    """All requests of a body; `RefusedError` names every item at fault, and nothing is taken then."""
    found, errors, count = Judged([], []), list[dict[str, Any]](), 0
    for where, item in READERS[media_type](content):
        if isinstance(item, LeftOut):
            found.left_out.append(where | {"sourceId": item.source_id, "reason": item.reason})
            continue
        count += 1
        if count > most:
            raise RefusedError(
                [{"field": "body", "detail": f"has more than {most} items: send several calls"}]
            )
        try:
            found.bodies.append(judge_body(_readable(item, given), now=now, context=context))
        except RefusedError as error:
            errors += [where | fault for fault in error.errors]
    if errors:
        faulty = len({(error.get("item"), error.get("line")) for error in errors})
        raise RefusedError(
            errors[:MOST_ERRORS], detail=f"{faulty} of {count} items cannot be taken, so none was"
        )
    if not found.bodies:
        why = (
            f"has no items: {len(found.left_out)} were left out"
            if found.left_out
            else "has no items"
        )
        raise RefusedError([{"field": "body", "detail": why}])
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
        "sourceType": "product",
        "sourceId": product.handle,
        "title": product.title,
        "product": product.as_prompt_data(),
    }


def _readable(item: Any, given: Mapping[str, Any]) -> Any:
    """An item with what is given for all, unless the reader has found a fault in its place."""
    if isinstance(item, RefusedError):
        raise item
    return {**item, **given} if given else item


def _fault(detail: str, field: str = "body") -> RefusedError:
    return RefusedError([{"field": field, "detail": detail}])


def _array(content: bytes) -> Iterator[tuple[Where, Any]]:
    try:
        items = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise NotJsonError(
            [{"field": "body", "detail": str(error)}], detail="the body is not JSON"
        ) from None
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
    if content.strip() and b"\n" not in content and b"\r" not in content:
        raise _fault(
            "is a single line, so only a header line at best; with curl send it by --data-binary, for -d joins lines"
        )
    try:
        export = shopify.parse_export(io.StringIO(content.decode("utf-8-sig"), newline=""))
    except ValueError as error:  # UnicodeDecodeError is one
        raise _fault(str(error)) from None
    for fault in export.faults:
        yield {"line": fault.line}, _fault(fault.reason, field="row")
    for product in export.products:
        yield (
            {"line": product.line},
            LeftOut(product.handle, why) if (why := why_not(product)) else request_of(product),
        )


def why_not(product: shopify.Product) -> str | None:
    """Why no post is asked for, if it is not."""
    return f"its Status is {product.status}" if product.status in _NOT_SHOWN else None


READERS: dict[str, Read] = {
    "application/json": _array,
    "application/x-ndjson": _lines,
    CSV: _export,
}
