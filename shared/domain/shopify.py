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

REQUIRED_COLUMNS = ("Handle", "Title", "Body (HTML)", "Vendor", "Type", "Tags", "Variant Price")
_OTHER_SEPARATORS = (";", "\t", "|")
_LONGEST_DESCRIPTION = 4_000
_LARGEST_FIELD = 1_000_000
_PRICE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    line: int
    """Where its first row begins, the header being line 1."""
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
    seo_title: str = ""
    seo_description: str = ""
    status: str = ""
    """`active`, `draft` or `archived`; empty where an export does not say."""

    @property
    def price_range(self) -> tuple[float, float] | None:
        """The least and the most that a variant costs, in the store's currency: exports do not say which."""
        return (min(self.prices), max(self.prices)) if self.prices else None

    def as_prompt_data(self) -> dict[str, Any]:
        """What a prompt is told of the product."""
        price = ""
        if self.price_range is not None:
            low, high = self.price_range
            price = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
        known = {
            "title": self.title,
            "vendor": self.vendor,
            "type": self.type,
            "tags": list(self.tags[:12]),
            "price": price,
            "options": list(self.options),
            "description": self.description,
        }
        return {name: value for name, value in known.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """A row that cannot be used. `line` counts from 1, the header's line included."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(slots=True)
class ProductExport:
    products: list[Product] = field(default_factory=list)
    faults: list[RowFault] = field(default_factory=list)


@dataclass(slots=True)
class _Draft:
    line: int
    first: dict[str, str]
    prices: list[float] = field(default_factory=list)
    images: list[str] = field(default_factory=list)


def parse_export(lines: Iterable[str]) -> ProductExport:
    """Every product whose first row is whole, and every row at fault. ValueError when this is no product export."""
    csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader(lines)
    header = _header(reader)
    folding = _Folding(header)
    for line, row in _rows(reader, folding.faults):
        reason = folding.take(line, row)
        if reason:
            folding.faults.append(RowFault(line=line, reason=reason))
    return ProductExport(
        products=[_product(draft) for draft in folding.drafts.values()], faults=folding.faults
    )


def _header(reader: Iterator[list[str]]) -> list[str]:
    try:
        first = next(reader, [])
    except csv.Error as error:
        raise ValueError(f"no Shopify product export: {error}") from None
    header = [name.removeprefix("\ufeff").strip() for name in first]
    if missing := [name for name in REQUIRED_COLUMNS if name not in header]:
        raise ValueError(f"no Shopify product export: {_why_missing(header, missing)}")
    return header


def _why_missing(header: list[str], missing: list[str]) -> str:
    for separator in _OTHER_SEPARATORS:
        if any("Handle" in cell.split(separator) for cell in header if separator in cell):
            return f"its columns are separated by {separator!r}; it takes commas"
    return f"missing {'column' if len(missing) == 1 else 'columns'} {', '.join(map(repr, missing))}"


def _rows(reader: Any, faults: list[RowFault]) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line they begin on; a row that cannot even be split is a fault, and the next line begins anew."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.append(RowFault(line=line, reason=str(error)))
            continue
        if row:
            yield line, row


class _Folding:
    """Rows become products, by handle."""

    def __init__(self, header: list[str]) -> None:
        self.drafts: dict[str, _Draft] = {}
        self.faults: list[RowFault] = []
        self._header = header
        self._handle_at = header.index("Handle")
        self._refused: dict[str, int] = {}
        """Handles whose first row was at fault, with its line: the rows that follow are no faults of their own."""

    def take(self, line: int, row: list[str]) -> str | None:
        """Add a row to its product; why it cannot be added, if so."""
        handle = row[self._handle_at].strip() if len(row) > self._handle_at else ""
        cells = dict(zip(self._header, row, strict=False))
        reason = self._fault(handle, cells, columns=len(row))
        if reason is None:
            self._add(handle, cells, line)
        elif handle and handle not in self.drafts:
            self._refused.setdefault(handle, line)
        return reason

    def _fault(self, handle: str, cells: dict[str, str], *, columns: int) -> str | None:
        if columns != len(self._header):
            return f"has {columns} columns, the header {len(self._header)}"
        if not handle:
            return "has no Handle"
        if any("\0" in cell for cell in cells.values()):
            return "contains the character U+0000"
        if handle not in self.drafts and not cells["Title"].strip():
            return self._homeless(handle)
        price = cells["Variant Price"].strip()
        if price and not _PRICE.fullmatch(price):
            return f"has the price {price!r}, which is no number"
        return None

    def _homeless(self, handle: str) -> str:
        if handle in self._refused:
            return f"belongs to {handle!r}, whose first row (line {self._refused[handle]}) cannot be used"
        return f"is the first of {handle!r} and has no Title"

    def _add(self, handle: str, cells: dict[str, str], line: int) -> None:
        draft = self.drafts.setdefault(handle, _Draft(line=line, first=cells))
        if price := cells["Variant Price"].strip():
            draft.prices.append(float(price))
        image = cells.get("Image Src", "").strip()
        if image and image not in draft.images:
            draft.images.append(image)


def _product(draft: _Draft) -> Product:
    row = draft.first
    options = (row.get(f"Option{number} Name", "").strip() for number in (1, 2, 3))
    return Product(
        line=draft.line,
        handle=row["Handle"].strip(),
        title=" ".join(row["Title"].split()),
        vendor=row["Vendor"].strip(),
        type=row["Type"].strip(),
        tags=tuple(tag.strip() for tag in row["Tags"].split(",") if tag.strip()),
        description=html_to_text(row["Body (HTML)"])[:_LONGEST_DESCRIPTION],
        prices=tuple(draft.prices),
        images=tuple(draft.images),
        options=tuple(option for option in options if option and option != "Title"),
        seo_title=" ".join(row.get("SEO Title", "").split()),
        seo_description=html_to_text(row.get("SEO Description", "")),
        status=row.get("Status", "").strip().lower(),
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


def html_to_text(html: str) -> str:
    """The text of an HTML fragment, white space folded."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return " ".join("".join(parser.parts).split())
