"""Formats dead letters: on one line, in full, or as JSON.

A record may hold anything, including control sequences of a terminal, so all text is escaped.
"""

import json
from typing import Any

from admin.dead_letters.rules import DeadLetter, HandledMarker, decode_text

_MAX_COLUMN = 200


def escape_unprintable(text: str, *, max_length: int | None = None) -> str:
    """Escape unprintable characters, so that the text stays on one line. Cut it at `max_length`."""
    if max_length is not None and len(text) > max_length:
        text = text[: max_length - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_origin(letter: DeadLetter) -> str:
    topic, partition, offset = (
        letter.dlq_header(name) for name in ("topic", "partition", "offset")
    )
    return f"{topic}[{partition or '?'}]@{offset or '?'}" if topic else "unknown"


def format_line(letter: DeadLetter) -> str:
    name = letter.dlq_header("error") or "no error named"
    reason = letter.dlq_header("reason") or "no reason given"
    columns = (
        letter.at,
        format_origin(letter),
        letter.dlq_header("group") or "no group",
        f"{name}: {reason}",
        f"key {_format_key(letter)}",
    )
    texts = [escape_unprintable(column, max_length=_MAX_COLUMN) for column in columns]
    return "  ".join([f"{letter.id:<8}", *texts])


def letter_summary(letter: DeadLetter) -> dict[str, Any]:
    """A letter as an item of a JSON list. A header that the record lacks is null."""
    origin = {
        name: letter.dlq_header(name) or None
        for name in ("topic", "partition", "offset", "group", "error", "reason")
    }
    key = None if letter.key is None else decode_text(letter.key)
    return {"id": letter.id, "at": letter.at or None, **origin, "key": key, "bytes": letter.size}


def format_letter(letter: DeadLetter, value: bytes | None, marker: HandledMarker | None) -> str:
    """The whole letter as text."""
    form, content = _read_value(value)
    fields = {
        "id": letter.id,
        "put aside": letter.at,
        "came from": format_origin(letter),
        "state": f"{marker.action} at {marker.at}" if marker else "open",
        "key": _format_key(letter),
    }
    lines = [f"{name:<10} {escape_unprintable(text)}" for name, text in fields.items()]
    headers = [
        f"  {escape_unprintable(name)}:"
        f" {'none' if text is None else escape_unprintable(decode_text(text))}"
        for name, text in letter.headers
    ]
    title = "headers" if headers else "no headers"
    return "\n".join([*lines, title, *headers, f"value ({form})", *_format_value(form, content)])


def letter_details(
    letter: DeadLetter, value: bytes | None, marker: HandledMarker | None
) -> dict[str, Any]:
    """The whole letter as JSON."""
    form, content = _read_value(value)
    return letter_summary(letter) | {
        "state": marker.action if marker else "open",
        "handledAt": marker.at if marker else None,
        # Pairs and not an object, because a record may have a header twice.
        "headers": [
            [name, None if text is None else decode_text(text)] for name, text in letter.headers
        ],
        "form": form,
        "value": content,
    }


def _format_key(letter: DeadLetter) -> str:
    return "none" if letter.key is None else decode_text(letter.key)


def _format_value(form: str, content: Any) -> list[str]:
    if form == "empty":
        return ["an empty record"]
    if form == "json":
        content = json.dumps(content, indent=2, ensure_ascii=False)
    return [escape_unprintable(line) for line in content.split("\n")]


def _read_value(value: bytes | None) -> tuple[str, Any]:
    """(form, content): `json` and its value, `text`, `bytes` as escaped text, or `empty`."""
    if value is None:
        return "empty", None
    try:
        parsed = json.loads(value)
        # NaN and 1e999 can be parsed but are not JSON. Too deep a value cannot be written.
        json.dumps(parsed, allow_nan=False)
        return "json", parsed
    except (ValueError, RecursionError):
        pass
    try:
        return "text", value.decode()
    except UnicodeDecodeError:
        return "bytes", decode_text(value)
