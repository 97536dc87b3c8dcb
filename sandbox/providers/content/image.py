"""Draws a small PNG: a gradient and a few hills in colours derived from the prompt."""

import colorsys
import hashlib
import random
import struct
import zlib

WIDTH, HEIGHT = 640, 360
_SHADES = 32


def draw_image(prompt: str) -> bytes:
    """Return a PNG for a prompt. The same prompt always gives the same image."""
    rng = random.Random(hashlib.sha256(prompt.encode()).digest())
    hue = rng.random()
    palette = _palette(hue, rng.random() * 0.2 + 0.05)
    rows = bytearray()
    hills = [
        (rng.randrange(WIDTH), rng.randrange(80, 260), rng.randrange(60, 160)) for _ in range(5)
    ]
    skyline = [_skyline_y(x // 8 * 8, hills) for x in range(WIDTH)]
    for y in range(HEIGHT):
        shade = y * (_SHADES - 1) // HEIGHT
        line = (
            bytes(_SHADES + shade // 2 if y > edge else shade for edge in skyline)
            if y > 150
            else bytes([shade]) * WIDTH
        )
        rows += b"\0" + line
    return _png(bytes(rows), palette)


def _skyline_y(x: int, hills: list[tuple[int, int, int]]) -> int:
    return HEIGHT - max(
        max(0, height - abs(x - middle) * height // (width * 2)) for middle, width, height in hills
    )


def _palette(hue: float, spread: float) -> bytes:
    colours = bytearray()
    for part in range(_SHADES):
        red, green, blue = colorsys.hsv_to_rgb(
            (hue + spread * part / _SHADES) % 1, 0.25 + part / 100, 0.97 - part / 120
        )
        colours += bytes((int(red * 255), int(green * 255), int(blue * 255)))
    for part in range(_SHADES):
        red, green, blue = colorsys.hsv_to_rgb((hue + 0.45) % 1, 0.45, 0.7 - part / 60)
        colours += bytes((int(red * 255), int(green * 255), int(blue * 255)))
    return bytes(colours)


def _png(rows: bytes, palette: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(rows, 6)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
