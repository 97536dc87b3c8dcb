"""Defines the answers expected from a model and renders them as HTML.

All model text is untrusted.
"""

import html
import re
import unicodedata

import nh3
from pydantic import BaseModel, ConfigDict, Field

_INLINE_TAGS = {"strong", "em", "a"}
_ATTRIBUTES = {"a": {"href"}}
_LONE_SURROGATE = re.compile(
    r"(?<!\\)((?:\\\\)*)(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
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
    """The text of a post. Paragraphs are plain text; all markup except inline tags is removed."""

    title: str = Field(min_length=1)
    slug: str
    meta_description: str
    sections: list[Section] = Field(min_length=1)


def render_html(article: Article) -> str:
    """Render an article as sanitised HTML.

    Only this function adds block elements. Links are https only; styles, scripts and event handlers
    are removed.
    """
    parts = [f"<h1>{html.escape(article.title)}</h1>"]
    for section in article.sections:
        parts.append(f"<h2>{html.escape(section.heading)}</h2>")
        parts += [f"<p>{_clean_inline(paragraph)}</p>" for paragraph in section.paragraphs]
    return f"<article>{''.join(parts)}</article>"


def _clean_inline(text: str) -> str:
    """Sanitise one paragraph on its own, so that its tags can neither leak out nor close ours."""
    return nh3.clean(
        text,
        tags=_INLINE_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"https"},
        url_relative="deny",
        clean_content_tags={"script", "style"},
        link_rel="noopener nofollow",
    )


def strip_nul(json: str) -> str:
    """Remove U+0000 and lone surrogates from a JSON text. PostgreSQL cannot store them.

    The answer is paid for.
    """
    return _LONE_SURROGATE.sub(r"\1", _NUL.sub(r"\1", json))


def to_plain_text(text: str, limit: int) -> str:
    """Strip markup and control characters, and cut the text at a word to `limit` characters."""
    stripped, before = text, ""
    while stripped != before:  # unescaping may reveal markup
        before = stripped
        stripped = html.unescape(
            nh3.clean(before, tags=set(), clean_content_tags={"script", "style"})
        )
    words = " ".join("".join(c if c.isprintable() else " " for c in stripped).split())
    return words if len(words) <= limit else words[:limit].rsplit(" ", 1)[0]


def make_slug(proposed: str, title: str) -> str:
    """Make a slug of a to z, digits and hyphens from the model's proposal, or from the title."""
    for text in (proposed, title):
        ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
        made = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:80].strip("-")
        if made:
            return made
    return "post"
