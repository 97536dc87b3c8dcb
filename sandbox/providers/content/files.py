"""The files that a prediction leaves: pictures, and what arrives in their place."""

import base64
from dataclasses import dataclass

from sandbox.providers.content.image import draw_image
from sandbox.providers.faults import FileKind

_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////"
    "////////////////////////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA="
)
_WEBP = base64.b64decode("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
"""Pictures of one pixel."""
_SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
_HTML = b"<!doctype html><title>Sign in</title><p>This is a page, not a picture.</p>"
_DENIED = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>AccessDenied</Code>"
    b"<Message>Access denied.</Message><Details>Request has expired</Details></Error>"
)


@dataclass(frozen=True, slots=True)
class File:
    """A file as its server sends it."""

    status: int
    media_type: str
    content: bytes


_FILES = {
    "jpeg": File(200, "image/jpeg", _JPEG),
    "webp": File(200, "image/webp", _WEBP),
    "svg": File(200, "image/svg+xml", _SVG),
    "html": File(200, "text/html", _HTML),
    "empty": File(200, "image/png", b""),
    "expired": File(403, "application/xml", _DENIED),
    "missing": File(404, "application/json", b'{"detail":"Not found."}'),
}


def make_file(kind: FileKind, prompt: str) -> File:
    """Return a file of a kind. Redirects lead to a PNG."""
    if kind in _FILES:
        return _FILES[kind]
    media_type = "application/octet-stream" if kind == "octet-stream" else "image/png"
    return File(200, media_type, draw_image(prompt))
