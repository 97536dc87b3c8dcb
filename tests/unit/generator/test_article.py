"""Rendering of model text: everything hostile is removed, known markup stays."""

import html
import re

import orjson
import pytest

from services.generator.blog.article import (
    Article,
    Section,
    make_slug,
    render_html,
    strip_nul,
    to_plain_text,
)


def make_article(*paragraphs: str, heading: str = "H", title: str = "T") -> Article:
    sections = [Section(heading=heading, paragraphs=list(paragraphs))]
    return Article(title=title, slug="s", meta_description="m", sections=sections)


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        '<a href="javascript:alert(1)">x</a>',
        '<p onclick="x()">hi</p>',
        "<iframe src='https://x'></iframe>",
        "<style>*{}</style>",
        "<svg onload=alert(1)>",
        '<a href="http://plain.example">x</a>',
        '<a href="//elsewhere.example">x</a>',
        '<a href="/admin">x</a>',
    ],
)
def test_hostile_markup_is_removed_from_the_page(hostile: str) -> None:
    for page in (
        render_html(make_article(hostile)),
        render_html(make_article("x", heading=hostile)),
        render_html(make_article("x", title=hostile)),
    ):
        without_text = re.sub(r"&lt;.*?&gt;", "", page)
        assert not re.search(
            r"<(script|img|iframe|style|svg)|javascript:|onclick|onerror", without_text
        )
        assert not re.search(r"href=(?!\"https:)", without_text)


@pytest.mark.parametrize(
    "markup", ["</p></article><h1>Big</h1>", "<strong>never closed", "<p><h2>mine</h2>", "</p>"]
)
def test_paragraph_cannot_change_surrounding_markup(markup: str) -> None:
    before, _, rest = render_html(make_article(markup)).partition("<p>")
    inside, _, after = rest.partition("</p>")
    assert (before, after) == ("<article><h1>T</h1><h2>H</h2>", "</article>")
    assert inside.count("<strong>") == inside.count("</strong>")
    assert not re.search("<(?!/?strong)", inside)


def test_inline_markup_is_kept() -> None:
    page = render_html(
        make_article('It is <strong>good</strong>, see <a href="https://shop.example/x">here</a>.')
    )
    assert "<strong>good</strong>" in page
    assert 'href="https://shop.example/x"' in page
    assert page.startswith("<article><h1>T</h1><h2>H</h2><p>")


def test_slug_has_only_letters_digits_and_hyphens() -> None:
    assert make_slug("../../etc/passwd", "T") == "etc-passwd"
    assert make_slug("Ünïcode & Söhne!", "T") == "unicode-sohne"
    assert make_slug("日本語", "日本語") == "post"
    assert len(make_slug("x" * 500, "T")) <= 80


def test_plain_text_is_cut_at_a_word() -> None:
    assert to_plain_text("<b>one</b> two\x00 three", 9) == "one two"
    assert to_plain_text("Tom &amp; Co", 50) == "Tom & Co"
    assert to_plain_text("1 < 2 > 0", 50) == "1 < 2 > 0"


@pytest.mark.parametrize("depth", range(4))
def test_plain_text_has_no_escaped_markup(depth: int) -> None:
    text = "<script>alert(1)</script><b>Tea</b>"
    for _ in range(depth):
        text = html.escape(text)
    assert to_plain_text(text, 50) == "Tea"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "a\x00b",
        "\x00",
        "\\u0000 written out",
        "\\\x00",
        "\x00\x00\\\x00x",
        'quotes "\x00"',
    ],
)
def test_strip_nul_removes_only_nul_from_json(text: str) -> None:
    assert orjson.loads(strip_nul(orjson.dumps(text).decode())) == text.replace("\x00", "")
