"""Parses the delay that a provider requests, in every form that vendors and gateways use."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

MAX_DELAY_S = 3_600.0
"""A longer delay is cut, so that a mistaken one costs an hour at most. A limit of a day is asked
for again every hour."""
_MAX_DEPTH = 4
_EPOCH_S = 1_000_000_000
"""Larger numbers are times since the epoch, in seconds; above a thousand times that, in ms."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd])(?![a-z])", re.IGNORECASE)
_LONG_UNIT = re.compile(
    r"(?<![a-z])(?:milliseconds?|seconds?|secs?|minutes?|mins?|hours?|hrs?|days?)\b", re.IGNORECASE
)
_HINT = re.compile(
    r"(?:try again|retry(?:ing)?|wait|reset(?:s)?)\s*(?:after|in|for)?:?\s*~?\s*"
    r"(\d[\d.]*\s*(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)"
    r"(?:\s*\d[\d.]*\s*(?:ms|s|m|h))*)(?![a-z])",
    re.IGNORECASE,
)
_BODY_FIELDS = ("retry_after_ms", "retry_after", "retryAfter", "retry_after_seconds", "retryDelay")


def parse_number(headers: Mapping[str, str], name: str) -> float | None:
    """Return a header's number, or `None` if the header is missing or holds no number."""
    try:
        number = float(headers.get(name, ""))
    except ValueError:
        return None
    return number if isfinite(number) else None


def parse_delay(
    headers: Mapping[str, str], body: Any, now: datetime, *, throttled: bool
) -> float | None:
    """Return the seconds to wait that an answer requests, at most an hour; `None` if it names none.

    Reads `retry-after-ms`, `Retry-After` (seconds, a duration, or a date), a field of the JSON
    body, the words of the message, and, of a `throttled` call, the `x-ratelimit-reset*` headers of
    used-up limits, in this order. Zero and negative delays say nothing.
    """
    for seconds in _candidates(headers, body, now, throttled=throttled):
        if seconds is not None and isfinite(seconds) and seconds > 0:
            return min(seconds, MAX_DELAY_S)
    return None


def parse_duration(text: str) -> float | None:
    """Parse `20s`, `1m2s`, `6m0s`, `8ms`, `1h` or `20 seconds` to seconds."""
    short = _LONG_UNIT.sub(lambda unit: _short_unit(unit[0]), text)
    parts = _DURATION.findall(short)
    if not parts or _DURATION.sub("", short).strip(" ,."):
        return None
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in parts)


def _candidates(
    headers: Mapping[str, str], body: Any, now: datetime, *, throttled: bool
) -> Iterator[float | None]:
    milliseconds = parse_number(headers, "retry-after-ms")
    yield None if milliseconds is None else milliseconds / 1000
    yield _parse_time(headers.get("retry-after", ""), now)
    yield from _body_delays(body, now)
    hint = _HINT.search(_message(body))
    yield parse_duration(hint[1]) if hint else None
    if throttled:
        yield _reset_delay(headers, now)


def _parse_time(text: Any, now: datetime) -> float | None:
    """Parse seconds, a duration, a time since the epoch, or a date, to seconds from now."""
    text = str(text).strip()
    try:
        return _from_number(float(text), now)
    except ValueError:
        pass
    return duration if (duration := parse_duration(text)) is not None else _from_date(text, now)


def _from_number(number: float, now: datetime) -> float:
    if number > _EPOCH_S * 1_000:
        return number / 1_000 - now.timestamp()
    return number - now.timestamp() if number > _EPOCH_S else number


def _from_date(text: str, now: datetime) -> float | None:
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            date = parse(text)
        except (ValueError, TypeError):
            continue
        return (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return None


def _body_delays(body: Any, now: datetime) -> Iterator[float | None]:
    for holder in _holders(body):
        for name in _BODY_FIELDS:
            if name in holder and not isinstance(holder[name], bool | dict | list | None):
                delay = _parse_time(holder[name], now)
                yield delay / 1_000 if delay is not None and name.endswith("_ms") else delay


def _holders(body: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a body that may name a delay: itself, its error, and their metadata."""
    if isinstance(body, dict) and depth <= _MAX_DEPTH:
        yield body
        for name in ("error", "metadata", "parameters"):
            yield from _holders(body.get(name), depth + 1)


def _reset_delay(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return when the used-up limits reset; all limits count if none is marked as used up."""
    resets = {
        name.removeprefix("x-ratelimit-reset"): delay
        for name, text in headers.items()
        if name.startswith("x-ratelimit-reset") and (delay := _parse_time(text, now)) is not None
    }
    used_up = [
        delay
        for suffix, delay in resets.items()
        if (parse_number(headers, f"x-ratelimit-remaining{suffix}") or 0.0) <= 0
    ]
    return max(used_up or resets.values(), default=None)


def _message(body: Any) -> str:
    for holder in reversed(list(_holders(body))):
        for name in ("message", "detail"):
            if isinstance(holder.get(name), str):
                return str(holder[name])
    return body if isinstance(body, str) else ""


def _short_unit(word: str) -> str:
    word = word.lower()
    return "ms" if word.startswith("milli") else word[0]
