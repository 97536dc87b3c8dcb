"""The stores and requests of the demo: a built-in keyword list, or one Shopify export per store."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.ingest.http.rules import InvalidRequestError
from services.ingest.submit.bulk_rules import product_request, skip_reason
from services.ingest.submit.rules import parse_request
from shared.domain import shopify

Request = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoStore:
    name: str
    requests: tuple[Request, ...]
    faults: tuple[str, ...] = ()
    """Rows of the export that cannot be used, each with its line and reason."""


_FLOOD = {
    "adjectives": (
        "waterproof",
        "ultralight",
        "four-season",
        "beginner's",
        "budget",
        "family",
        "winter",
        "packable",
    ),
    "things": ("tent", "sleeping bag", "hiking boots", "camp stove", "rain jacket"),
}
_SMALL: dict[str, tuple[str, ...]] = {
    "kettle-and-co": (
        "how to brew gongfu tea",
        "gooseneck kettles compared",
        "cold brew at home",
        "water temperature for green tea",
        "caring for a cast-iron teapot",
        "matcha for beginners",
        "storing tea",
        "the best mugs for oolong",
    ),
    "atelier-lune": (
        "linen aprons that last",
        "washing linen",
        "natural dyes from the kitchen",
        "mending a favourite shirt",
        "a capsule wardrobe for summer",
    ),
    "little-press": (
        "choosing paper for letterpress",
        "hand-bound notebooks",
        "fountain pens for left-handers",
    ),
}


def built_in_stores() -> list[DemoStore]:
    """Return one store with forty requests and three stores with a few."""
    flood = [
        f"{adjective} {thing}" for adjective in _FLOOD["adjectives"] for thing in _FLOOD["things"]
    ]
    keywords_by_store = {"northwind-outdoor": tuple(flood), **_SMALL}
    return [
        DemoStore(name=name, requests=tuple(_keyword_request(text) for text in keywords))
        for name, keywords in keywords_by_store.items()
    ]


def _keyword_request(text: str) -> Request:
    return {
        "sourceType": "keyword",
        "sourceId": re.sub(r"[^a-z0-9]+", "-", text),
        "title": text,
        "keywords": [text],
    }


def store_from_export(path: Path) -> DemoStore:
    """Read one product export as a store named after the file.

    Raises ValueError when the file is not a product export.
    """
    with path.open(encoding="utf-8-sig", newline="") as lines:
        export = shopify.parse_export(lines)
    faults, requests = list(export.faults), list[Request]()
    for product in export.products:
        if (why := skip_reason(product)) is not None:
            faults.append(shopify.RowFault(line=product.line, reason=f"left out: {why}"))
            continue
        request = product_request(product)
        try:
            parse_request(request, now=datetime.now(UTC))
        except InvalidRequestError as error:
            faults.append(shopify.RowFault(line=product.line, reason=f"would be refused: {error}"))
        else:
            requests.append(request)
    name = re.sub(r"[^a-zA-Z0-9._-]+", "-", path.stem).strip("-._")[:100] or "shop"
    in_order = sorted(faults, key=lambda fault: fault.line)
    return DemoStore(
        name=name, requests=tuple(requests), faults=tuple(str(fault) for fault in in_order)
    )
