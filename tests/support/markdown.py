"""Reads Markdown pages: headings and their anchors, links, tables, prose."""

import re
from pathlib import Path

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`]*`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
_WORD = re.compile(r"[A-Za-z']+")
_PRONOUN = re.compile(r"\b(?:what|who|that|which|none|nobody)\b", re.IGNORECASE)


def without_code_blocks(text: str) -> str:
    return _FENCE.sub("", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the page's headings."""
    headings = _HEADING.findall(without_code_blocks(page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[tuple[str, str]]:
    """Return the page's links as path and anchor; either may be empty."""
    return _LINK.findall(page.read_text(encoding="utf-8"))


def table_rows(page: Path, header: str) -> list[list[str]]:
    """Return the cells of the table that begins with the line `header`."""
    body = page.read_text(encoding="utf-8").partition(f"\n{header}\n")[2]
    lines = body.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def pronouns_per_hundred_words(page: Path) -> float:
    """Count what, who, that, which, none and nobody in the page's text outside code."""
    text = _CODE.sub("x", without_code_blocks(page.read_text(encoding="utf-8")))
    return 100 * len(_PRONOUN.findall(text)) / len(_WORD.findall(text))
