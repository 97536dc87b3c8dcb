"""Parses the headers of providers' answers, and lists the answers that start a cool-down."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite

COOL_DOWN_STATUSES = frozenset({429, 503})
"""A provider that answers one of these gets a cool-down."""
DEFAULT_COOL_DOWN_S = 5.0
"""The cool-down when the provider requests none."""
_MAX_DELAY_S = 600.0
"""A longer requested delay is taken for a mistake and cut."""


def parse_number(headers: Mapping[str, str], name: str) -> float | None:
    """Return a header's number, or `None` if the header is missing or holds no number."""
    try:
        return float(headers.get(name, ""))
    except ValueError:
        return None


def parse_retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the delay in seconds that a provider requests.

    Reads `retry-after-ms`, or `Retry-After` in seconds or as a date.
    """
    if (milliseconds := parse_number(headers, "retry-after-ms")) is not None:
        return _clamp(milliseconds / 1000)
    if (seconds := parse_number(headers, "retry-after")) is not None:
        return _clamp(seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return _clamp((date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


def _clamp(seconds: float) -> float | None:
    return min(max(seconds, 0.0), _MAX_DELAY_S) if isfinite(seconds) else None
