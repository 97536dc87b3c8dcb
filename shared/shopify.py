"""Shopify product exports: rows of products, variants and images become products; broken rows are named.

An export has one row a variant and one an image; rows of one product share its handle, and its first row carries the
texts. Pure: text lines in, products and faults out.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_REQUIRED = ("Handle", "Title", "Body (HTML)", "Vendor", "Type", "Tags", "Variant Price")
_LONGEST_DESCRIPTION = 4_000
_LARGEST_FIELD = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    handle: str
    title: str
    vendor: str
    type: str
    tags: tuple[str, ...]
    description: str
    """Plain text, at most 4,000 characters."""
    prices: tuple[float, ...]
    images: tuple[str, ...]
    options: tuple[str, ...]
    """Names of what a buyer chooses: size, colour."""

    def as_data(self) -> dict[str, Any]:
        """What a prompt is told of the product."""
        price = ""
        if self.prices:
            low, high = min(self.prices), max(self.prices)
            price = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
        known = {
            "title": self.title, "vendor": self.vendor, "type": self.type, "tags": list(self.tags[:12]),
            "price": price, "options": list(self.options), "description": self.description,
        }  # fmt: skip
        return {name: value for name, value in known.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row that cannot be used. `line` counts from 1, the header's line included."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(slots=True)
class Export:
    products: list[Product] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


@dataclass(slots=True)
class _Draft:
    first: dict[str, str]
    prices: list[float] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


def parse(lines: Iterable[str]) -> Export:
    """Every product whose rows are whole, and every row at fault. ValueError when this is no product export."""
    csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader(lines)
    header = next(reader, [])
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise ValueError(f"no Shopify product export: the column {missing[0]!r} is missing")
    export, drafts = Export(), dict[str, _Draft]()
    for line, row in _rows(reader, export):
        reason = _take(dict(zip(header, row, strict=False)), drafts) if len(row) == len(header) else (
            f"has {len(row)} columns, the header {len(header)}"
        )  # fmt: skip
        if reason:
            export.faults.append(Fault(line=line, reason=reason))
    export.products = [_product(draft) for draft in drafts.values()]
    return export


def _rows(reader: Any, export: Export) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line they begin on; a row that cannot even be split ends the file with a fault."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            export.faults.append(Fault(line=line, reason=str(error)))
            return
        if row:
            yield line, row


def _take(row: dict[str, str], drafts: dict[str, _Draft]) -> str | None:
    """Add a row to its product; why it cannot be added, if so."""
    handle = row["Handle"].strip()
    if not handle:
        return "has no Handle"
    price = row["Variant Price"].strip()
    if price and not re.fullmatch(r"\d+(\.\d+)?", price):
        return f"has the price {price!r}, which is no number"
    if handle not in drafts:
        if not row["Title"].strip():
            return f"is the first of {handle!r} and has no Title"
        drafts[handle] = _Draft(first=row)
    if price:
        drafts[handle].prices.append(float(price))
    image = row.get("Image Src", "").strip()
    if image and image not in drafts[handle].images:
        drafts[handle].images.append(image)
    return None


def _product(draft: _Draft) -> Product:
    row = draft.first
    options = (row.get(f"Option{number} Name", "").strip() for number in (1, 2, 3))
    return Product(
        handle=row["Handle"].strip(),
        title=" ".join(row["Title"].split()),
        vendor=row["Vendor"].strip(),
        type=row["Type"].strip(),
        tags=tuple(tag.strip() for tag in row["Tags"].split(",") if tag.strip()),
        description=plain_text(row["Body (HTML)"])[:_LONGEST_DESCRIPTION],
        prices=tuple(draft.prices),
        images=tuple(draft.images),
        options=tuple(option for option in options if option and option != "Title"),
    )


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")
        self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0
        self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def plain_text(html: str) -> str:
    """The text of an HTML fragment, white space folded."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.parts).split())
