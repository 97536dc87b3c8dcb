"""Content negotiation by the `Accept` header: media types and weights of RFC 9110."""

from collections.abc import Mapping


def choose_media_type(header: str, offered: Mapping[str, str]) -> str:
    """Return the name of the offered media type with the highest weight.

    Among equal weights, a named type wins over a wildcard, then the first offered one. The first
    offered one is also the answer when none is acceptable or the header is missing.
    """
    ranges = [_parse_range(part) for part in header.lower().split(",")]
    weights = {name: _weight(media_type, ranges) for name, media_type in offered.items()}
    return max(weights, key=weights.__getitem__)


def _parse_range(part: str) -> tuple[str, float]:
    media_type, *parameters = (piece.strip() for piece in part.split(";"))
    parameter_values = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
    try:
        weight = float(parameter_values.get("q", "1"))
    except ValueError:
        weight = 0.0
    return media_type, weight if 0 <= weight <= 1 else 0.0


def _weight(media_type: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """Return the weight of the most specific range that matches, and how specific it is."""
    for specific, wanted in (
        (2, media_type),
        (1, media_type.split("/", maxsplit=1)[0] + "/*"),
        (0, "*/*"),
    ):
        found = [weight for one, weight in ranges if one == wanted]
        if found:
            return (max(found), specific) if max(found) else (0.0, 0)
    return 0.0, 0
