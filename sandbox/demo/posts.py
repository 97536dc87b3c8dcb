"""Writes finished posts where a person can open them: posts/STORE/SLUG.html, with the picture beside."""

import html
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import httpx

_PAGE = """<!doctype html>
<html>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<meta name="description" content="{description}">
<style>
body {{ max-width: 42rem; margin: 2rem auto; padding: 0 1rem; font: 1.05rem/1.6 Georgia, serif; color: #222; }}
img {{ max-width: 100%; height: auto; border-radius: 6px; }}
.note {{ font: .85rem/1.4 system-ui, sans-serif; color: #8a5a00; background: #fff6e0; padding: .6rem .9rem; }}
</style>
</head>
<body>
{note}{image}
{body}
</body>
</html>
"""
STANDIN_NOTE = "<p class=note>Written and painted by stand-ins: no AI provider was called.</p>\n"


async def write_post(
    folder: Path, job: dict[str, Any], http: httpx.AsyncClient, *, standins: bool
) -> Path:
    """Write one finished job (the answer of GET) below `folder`; the path of the page."""
    post = job["post"]
    page: Path = folder / job["store"] / f"{post['slug']}-{job['id'][-6:]}.html"
    picture = await _fetch(post["imageUrl"], http) if post["imageUrl"] else None
    return _save(page, post, picture, standins=standins)


def _save(
    page: Path, post: dict[str, Any], picture: tuple[str, bytes] | None, *, standins: bool
) -> Path:
    page.parent.mkdir(parents=True, exist_ok=True)
    image = ""
    if picture is not None:
        suffix, content = picture
        page.with_suffix(suffix).write_bytes(content)
        image = f'<img src="{html.escape(page.with_suffix(suffix).name, quote=True)}" alt="">'
    text = _PAGE.format(
        title=html.escape(post["title"]),
        description=html.escape(post["metaDescription"], quote=True),
        note=STANDIN_NOTE if standins else "",
        image=image,
        body=post["html"],
    )
    page.write_text(text, encoding="utf-8")
    return page


async def _fetch(url: str, http: httpx.AsyncClient) -> tuple[str, bytes]:
    """The picture's file suffix and bytes."""
    answer = await http.get(url)
    answer.raise_for_status()
    return PurePosixPath(urlsplit(url).path).suffix or ".png", answer.content
