"""An image file is recognised by its bytes, and a file that is cut off is noticed."""

import pytest

from sandbox.providers.content.image import draw_image
from services.generator.providers.replicate.image_files import find_format, is_whole_image

WEBP = b"RIFF" + (16).to_bytes(4, "little") + b"WEBPVP8 " + bytes(8)
AVIF = b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + b"\0\0\0\x0cmdat" + bytes(4)
FILES = {
    "image/png": draw_image("a teapot"),
    "image/jpeg": b"\xff\xd8\xff\xe0" + bytes(40) + b"\xff\xd9",
    "image/webp": WEBP,
    "image/gif": b"GIF89a" + bytes(20) + b"\0;",
    "image/avif": AVIF,
}


@pytest.mark.parametrize("media_type", FILES)
def test_image_is_recognised_and_must_be_whole(media_type: str) -> None:
    content = FILES[media_type]
    known = find_format(content)
    assert known is not None
    assert known.media_type == media_type
    assert is_whole_image(content)
    assert not is_whole_image(content[:-3])


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"<svg/>", b'{"detail": "gone"}', b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypisom"],
)
def test_other_files_are_no_images(content: bytes) -> None:
    assert find_format(content) is None
    assert not is_whole_image(content)
