"""Writes finished posts as pages: posts/STORE/SLUG.html, with the image beside."""

import html
from collections.abc import Sequence
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
body {{ max-width: 42rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
body {{ font: 1.05rem/1.6 Georgia, serif; }}
img {{ max-width: 100%; height: auto; border-radius: 6px; }}
.note {{ font: .85rem/1.4 system-ui, sans-serif; padding: .6rem .9rem; }}
.note {{ color: #8a5a00; background: #fff6e0; }}
</style>
</head>
<body>
{note}{image}
{body}
</body>
</html>
"""
_NOTES = {
    "openai": "The text is a sample, made by a stand-in for OpenAI.",
    "replicate": "The image was drawn by a stand-in for Replicate.",
}


async def write_post(
    folder: Path, job: dict[str, Any], http: httpx.AsyncClient, *, standins: Sequence[str]
) -> Path:
    """Write a finished job (the answer of GET) below `folder`; return the path of the page."""
    post = job["post"]
    page: Path = folder / job["store"] / f"{post['slug']}-{job['id'][-6:]}.html"
    image = await _fetch_image(post["imageUrl"], http) if post["imageUrl"] else None
    return _save_page(page, post, image, standins=standins)


def _save_page(
    page: Path, post: dict[str, Any], image: tuple[str, bytes] | None, *, standins: Sequence[str]
) -> Path:
    page.parent.mkdir(parents=True, exist_ok=True)
    tag = ""
    if image is not None:
        suffix, content = image
        page.with_suffix(suffix).write_bytes(content)
        tag = f'<img src="{html.escape(page.with_suffix(suffix).name, quote=True)}" alt="">'
    text = _PAGE.format(
        title=html.escape(post["title"]),
        description=html.escape(post["metaDescription"], quote=True),
        note="".join(f"<p class=note>{_NOTES[name]}</p>\n" for name in standins),
        image=tag,
        body=post["html"],
    )
    page.write_text(text, encoding="utf-8")
    return page


async def _fetch_image(url: str, http: httpx.AsyncClient) -> tuple[str, bytes]:
    """Return the file suffix and the bytes of an image."""
    answer = await http.get(url)
    answer.raise_for_status()
    return PurePosixPath(urlsplit(url).path).suffix or ".png", answer.content
