"""What a provider's headers say, where they say it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

_LONGEST_S = 600.0
"""Nobody waits longer for a word of theirs: it may be a mistake."""


def number(headers: Mapping[str, str], name: str) -> float | None:
    """A header's number; None where there is no such header, or no number in it."""
    try:
        return float(headers.get(name, ""))
    except ValueError:
        return None


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds that a provider wants us to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    if (milliseconds := number(headers, "retry-after-ms")) is not None:
        return _sane(milliseconds / 1000)
    if (seconds := number(headers, "retry-after")) is not None:
        return _sane(seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return _sane((date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


def _sane(seconds: float) -> float | None:
    return min(max(seconds, 0.0), _LONGEST_S) if isfinite(seconds) else None
