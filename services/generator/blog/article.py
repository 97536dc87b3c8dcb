"""What a model must answer, and how its answer becomes a page: everything it wrote is treated as hostile."""

import html
import re
import unicodedata

import nh3
from pydantic import BaseModel, ConfigDict, Field

_INLINE = {"strong", "em", "a"}
_ATTRIBUTES = {"a": {"href"}}
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class _ModelAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Outline(_ModelAnswer):
    """The plan of a post."""

    title: str = Field(min_length=1)
    angle: str
    headings: list[str] = Field(min_length=1)
    keywords: list[str]


class Section(_ModelAnswer):
    heading: str
    paragraphs: list[str]


class Article(_ModelAnswer):
    """The post itself. Paragraphs are plain text; markup within a line survives, the rest is taken out."""

    title: str = Field(min_length=1)
    slug: str
    meta_description: str
    sections: list[Section] = Field(min_length=1)


def render_html(article: Article) -> str:
    """The article as sanitised HTML: the structure is ours; links by https only, no style, script or event."""
    parts = [f"<h1>{html.escape(article.title)}</h1>"]
    for section in article.sections:
        parts.append(f"<h2>{html.escape(section.heading)}</h2>")
        parts += [f"<p>{_clean_inline(paragraph)}</p>" for paragraph in section.paragraphs]
    return f"<article>{''.join(parts)}</article>"


def _clean_inline(text: str) -> str:
    """Each paragraph by itself: what it opens it cannot leave open, and it closes nothing of ours."""
    return nh3.clean(
        text,
        tags=_INLINE,
        attributes=_ATTRIBUTES,
        url_schemes={"https"},
        url_relative="deny",
        clean_content_tags={"script", "style"},
        link_rel="noopener nofollow",
    )


def strip_nul(json: str) -> str:
    """A JSON text without the character U+0000: PostgreSQL cannot store it, and the answer is paid for."""
    return _NUL.sub(r"\1", json)


def to_plain_text(text: str, limit: int) -> str:
    """Text without markup and control characters, at most `limit` characters long, cut at a word."""
    stripped, before = text, ""
    while stripped != before:  # what was escaped may be markup now
        before = stripped
        stripped = html.unescape(
            nh3.clean(before, tags=set(), clean_content_tags={"script", "style"})
        )
    words = " ".join("".join(c if c.isprintable() else " " for c in stripped).split())
    return words if len(words) <= limit else words[:limit].rsplit(" ", 1)[0]


def make_slug(wanted: str, title: str) -> str:
    """A slug of a to z, digits and hyphens, from what the model wanted or else from the title."""
    for text in (wanted, title):
        ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
        made = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:80].strip("-")
        if made:
            return made
    return "post"
