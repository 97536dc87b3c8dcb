"""Reads Shopify product exports (CSV): merges rows into products and reports broken rows. Pure.

An export has one row for each variant and each image. Rows of one product share its handle, and the
first row has the texts.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from shared.domain.html_text import html_to_text

REQUIRED_COLUMNS = ("Handle", "Title", "Body (HTML)", "Vendor", "Type", "Tags", "Variant Price")
_OTHER_SEPARATORS = (";", "\t", "|")
_MAX_DESCRIPTION = 4_000
_MAX_SEO_TITLE = 200
_MAX_SEO_DESCRIPTION = 1_000
_MAX_TAGS = 12
_MAX_IMAGES = 10
_MAX_IMAGE_URL = 1_000
_MAX_FIELD = 1_000_000
_PRICE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    line: int
    """The line on which its first row begins; the header is line 1."""
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
    """Names of the options of its variants: size, colour."""
    seo_title: str = ""
    seo_description: str = ""
    status: str = ""
    """`active`, `draft` or `archived`; empty in exports without that column."""

    @property
    def price_range(self) -> tuple[float, float] | None:
        """Lowest and highest price of a variant, in the store's currency (not in the export)."""
        return (min(self.prices), max(self.prices)) if self.prices else None

    def as_prompt_data(self) -> dict[str, Any]:
        """The product's data for a prompt, without empty fields.

        The prompt cuts the last entries first. Sizes are limited, because ingest refuses products
        over 64 KiB.
        """
        price = ""
        if self.price_range is not None:
            low, high = self.price_range
            price = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
        fields = {
            "title": self.title,
            "vendor": self.vendor,
            "type": self.type,
            "tags": list(self.tags[:_MAX_TAGS]),
            "price": price,
            "options": list(self.options),
            "seoTitle": self.seo_title[:_MAX_SEO_TITLE],
            "seoDescription": self.seo_description[:_MAX_SEO_DESCRIPTION],
            "description": self.description,
            "images": [url for url in self.images if len(url) <= _MAX_IMAGE_URL][:_MAX_IMAGES],
        }
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """A row that cannot be used. `line` counts from 1, the header included."""

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
    """Parse an export into products and faults. ValueError when the file is no product export."""
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(lines)
    header = _read_header(reader)
    merger = _RowMerger(header)
    for line, row in _read_rows(reader, merger.faults):
        reason = merger.add_row(line, row)
        if reason:
            merger.faults.append(RowFault(line=line, reason=reason))
    return ProductExport(
        products=[_build_product(draft) for draft in merger.drafts.values()], faults=merger.faults
    )


def _read_header(reader: Iterator[list[str]]) -> list[str]:
    try:
        first = next(reader, [])
    except csv.Error as error:
        raise ValueError(f"no Shopify product export: {error}") from None
    header = [name.removeprefix("\ufeff").strip() for name in first]
    if missing := [name for name in REQUIRED_COLUMNS if name not in header]:
        raise ValueError(f"no Shopify product export: {_explain_missing(header, missing)}")
    return header


def _explain_missing(header: list[str], missing: list[str]) -> str:
    for separator in _OTHER_SEPARATORS:
        if any("Handle" in cell.split(separator) for cell in header if separator in cell):
            return f"its columns are separated by {separator!r}; it takes commas"
    return f"missing {'column' if len(missing) == 1 else 'columns'} {', '.join(map(repr, missing))}"


def _read_rows(reader: Any, faults: list[RowFault]) -> Iterator[tuple[int, list[str]]]:
    """Yield rows with the line on which they begin. A row that csv cannot read becomes a fault."""
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


class _RowMerger:
    """Merges rows into products, by handle."""

    def __init__(self, header: list[str]) -> None:
        self.drafts: dict[str, _Draft] = {}
        self.faults: list[RowFault] = []
        self._header = header
        self._handle_at = header.index("Handle")
        self._refused: dict[str, int] = {}
        """Handles whose first row was at fault, with its line, for the faults of later rows."""

    def add_row(self, line: int, row: list[str]) -> str | None:
        """Add a row to its product. Return the reason if the row cannot be used."""
        handle = row[self._handle_at].strip() if len(row) > self._handle_at else ""
        cells = dict(zip(self._header, row, strict=False))
        reason = self._find_fault(handle, cells, columns=len(row))
        if reason is None:
            self._add_cells(handle, cells, line)
        elif handle and handle not in self.drafts:
            self._refused.setdefault(handle, line)
        return reason

    def _find_fault(self, handle: str, cells: dict[str, str], *, columns: int) -> str | None:
        if columns != len(self._header):
            return f"has {columns} columns, the header {len(self._header)}"
        if not handle:
            return "has no Handle"
        if any("\0" in cell for cell in cells.values()):
            return "contains the character U+0000"
        if handle not in self.drafts and not cells["Title"].strip():
            return self._explain_no_product(handle)
        price = cells["Variant Price"].strip()
        if price and not _PRICE.fullmatch(price):
            return f"has the price {price!r}, which is no number"
        return None

    def _explain_no_product(self, handle: str) -> str:
        if handle in self._refused:
            first = self._refused[handle]
            return f"belongs to {handle!r}, whose first row (line {first}) cannot be used"
        return f"is the first of {handle!r} and has no Title"

    def _add_cells(self, handle: str, cells: dict[str, str], line: int) -> None:
        draft = self.drafts.setdefault(handle, _Draft(line=line, first=cells))
        if price := cells["Variant Price"].strip():
            draft.prices.append(float(price))
        image = cells.get("Image Src", "").strip()
        if image and image not in draft.images:
            draft.images.append(image)


def _build_product(draft: _Draft) -> Product:
    row = draft.first
    options = (row.get(f"Option{number} Name", "").strip() for number in (1, 2, 3))
    return Product(
        line=draft.line,
        handle=row["Handle"].strip(),
        title=" ".join(row["Title"].split()),
        vendor=row["Vendor"].strip(),
        type=row["Type"].strip(),
        tags=tuple(tag.strip() for tag in row["Tags"].split(",") if tag.strip()),
        description=html_to_text(row["Body (HTML)"])[:_MAX_DESCRIPTION],
        prices=tuple(draft.prices),
        images=tuple(draft.images),
        options=tuple(option for option in options if option and option != "Title"),
        seo_title=" ".join(row.get("SEO Title", "").split()),
        seo_description=html_to_text(row.get("SEO Description", "")),
        status=row.get("Status", "").strip().lower(),
    )
