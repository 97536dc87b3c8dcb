"""Recognises image files by their bytes, because servers name wrong media types."""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

MAX_IMAGE_BYTES = 16 * 1024 * 1024

_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_JPEG_TAIL_BYTES = 1024
"""Some encoders append a little data to the end marker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """An accepted format. `begins` and `is_complete` judge a file's bytes."""

    media_type: str
    suffix: str
    begins: Callable[[bytes], bool]
    is_complete: Callable[[bytes], bool]


def _is_complete_webp(content: bytes) -> bool:
    return len(content) >= 8 + int.from_bytes(content[4:8], "little")


def _is_complete_avif(content: bytes) -> bool:
    """Return whether the boxes (size and type, then data) end within the file."""
    offset, types = 0, set()
    while offset + 8 <= len(content):
        size = int.from_bytes(content[offset : offset + 4], "big")
        types.add(content[offset + 4 : offset + 8])
        if size == 1:
            size = int.from_bytes(content[offset + 8 : offset + 16], "big")
        if size == 0:  # the last box, to the end of the file
            return b"mdat" in types
        if size < 8:
            return False
        offset += size
    return offset == len(content) and b"mdat" in types


IMAGE_FORMATS = (
    ImageFormat(
        media_type="image/png",
        suffix=".png",
        begins=lambda content: content.startswith(b"\x89PNG\r\n\x1a\n"),
        is_complete=lambda content: _PNG_END in content,
    ),
    ImageFormat(
        media_type="image/jpeg",
        suffix=".jpg",
        begins=lambda content: content.startswith(b"\xff\xd8\xff"),
        is_complete=lambda content: _JPEG_END in content[-_JPEG_TAIL_BYTES:],
    ),
    ImageFormat(
        media_type="image/webp",
        suffix=".webp",
        begins=lambda content: content[:4] == b"RIFF" and content[8:12] == b"WEBP",
        is_complete=_is_complete_webp,
    ),
    ImageFormat(
        media_type="image/gif",
        suffix=".gif",
        begins=lambda content: content.startswith((b"GIF87a", b"GIF89a")),
        is_complete=lambda content: content.rstrip(b"\0").endswith(b";"),
    ),
    ImageFormat(
        media_type="image/avif",
        suffix=".avif",
        begins=lambda content: (
            content[4:8] == b"ftyp" and (b"avif" in content[8:40] or b"avis" in content[8:40])
        ),
        is_complete=_is_complete_avif,
    ),
)


def find_format(content: bytes) -> ImageFormat | None:
    """Return the format of a file by its first bytes, or `None` if it is no accepted image."""
    return next((known for known in IMAGE_FORMATS if known.begins(content)), None)


def is_whole_image(content: bytes) -> bool:
    """Return whether a file is an image of an accepted format, from its begin to its end."""
    known = find_format(content)
    return known is not None and known.is_complete(content)


def decode_data_uri(uri: str) -> bytes:
    """Return the content of a `data:` URI; empty if it cannot be decoded."""
    head, _, data = uri.partition(",")
    if ";base64" not in head.lower():
        return unquote_to_bytes(data)
    return decode_base64(unquote_to_bytes(data)) or b""


def decode_base64(text: str | bytes) -> bytes | None:
    """Decode standard or URL-safe base64, with or without padding; `None` if it is neither."""
    try:
        data = text.encode("ascii") if isinstance(text, str) else text
        data = b"".join(data.split()).replace(b"-", b"+").replace(b"_", b"/")
        return b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except (Base64Error, ValueError):
        return None
