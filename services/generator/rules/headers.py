"""What a provider's headers say, where they say it."""

from collections.abc import Mapping


def number(headers: Mapping[str, str], name: str) -> float | None:
    """A header's number; None where there is no such header, or no number in it."""
    try:
        return float(headers.get(name, ""))
    except ValueError:
        return None
