"""How letters are shown: on one line, in full, or as JSON. A record may hold anything, a terminal's commands too."""

import json
from typing import Any

from admin.dead_letters.rules import DeadLetter, HandledMarker, decode_text

_LONGEST = 200


def escape_unprintable(said: str, *, longest: int | None = None) -> str:
    """On one line, every character that cannot be seen escaped, and cut when it is longer than a list can bear."""
    if longest is not None and len(said) > longest:
        said = said[: longest - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)


def format_origin(letter: DeadLetter) -> str:
    topic, partition, offset = (letter.said(name) for name in ("topic", "partition", "offset"))
    return f"{topic}[{partition or '?'}]@{offset or '?'}" if topic else "unknown"


def format_line(letter: DeadLetter) -> str:
    key = "none" if letter.key is None else decode_text(letter.key)
    error = (
        f"{letter.said('error') or 'no error named'}: {letter.said('reason') or 'no reason given'}"
    )
    told = (letter.at, format_origin(letter), letter.said("group") or "no group", error, f"key {key}")
    return "  ".join([f"{letter.id:<8}", *(escape_unprintable(part, longest=_LONGEST) for part in told)])


def letter_summary(letter: DeadLetter) -> dict[str, Any]:
    """All that a list can tell, for JSON; what a foreign record does not say is null."""
    said = {
        name: letter.said(name) or None
        for name in ("topic", "partition", "offset", "group", "error", "reason")
    }
    key = None if letter.key is None else decode_text(letter.key)
    return {"id": letter.id, "at": letter.at or None, **said, "key": key, "bytes": letter.size}


def format_letter(letter: DeadLetter, value: bytes | None, marker: HandledMarker | None) -> str:
    """The whole letter, for reading."""
    state = f"{marker.action} at {marker.at}" if marker else "open"
    form, content = _content(value)
    told = {
        "id": letter.id,
        "put aside": letter.at,
        "came from": format_origin(letter),
        "state": state,
        "key": "none" if letter.key is None else decode_text(letter.key),
    }
    lines = [f"{name:<10} {escape_unprintable(said)}" for name, said in told.items()]
    headers = [
        f"  {escape_unprintable(name)}: {'none' if v is None else escape_unprintable(decode_text(v))}"
        for name, v in letter.headers
    ]
    if form == "json":
        content = json.dumps(content, indent=2, ensure_ascii=False)
    body = (
        [escape_unprintable(part) for part in content.split("\n")]
        if form != "empty"
        else ["an empty record"]
    )
    return "\n".join(
        [*lines, "headers" if headers else "no headers", *headers, f"value ({form})", *body]
    )


def letter_details(letter: DeadLetter, value: bytes | None, marker: HandledMarker | None) -> dict[str, Any]:
    form, content = _content(value)
    return letter_summary(letter) | {
        "state": marker.action if marker else "open",
        "handledAt": marker.at if marker else None,
        # Pairs, not an object: a record may have a header twice.
        "headers": [
            [name, None if content is None else decode_text(content)] for name, content in letter.headers
        ],
        "form": form,
        "value": content,
    }


def _content(value: bytes | None) -> tuple[str, Any]:
    """(form, content): `json` with what it says, `decode_text`, `bytes` as escaped text, or `empty` with None."""
    if value is None:
        return "empty", None
    try:
        said = json.loads(value)
        json.dumps(
            said, allow_nan=False
        )  # NaN and 1e999 are read, and are no JSON; what is too deep is not written
        return "json", said
    except (ValueError, RecursionError):
        pass
    try:
        return "decode_text", value.decode()
    except UnicodeDecodeError:
        return "bytes", decode_text(value)
