"""What a client would rather have, by its `Accept` header: the media types of RFC 9110, with their weights."""

from collections.abc import Mapping


def preferred(header: str, offered: Mapping[str, str]) -> str:
    """The name of the offered media type with the highest weight. Of several with the same, one that is named before
    one that a wildcard allows, then the first that is offered: also when none is acceptable, or no header was sent."""
    ranges = [_range(part) for part in header.lower().split(",")]
    weights = {name: _weight(media_type, ranges) for name, media_type in offered.items()}
    return max(weights, key=weights.__getitem__)


def _range(part: str) -> tuple[str, float]:
    media_type, *parameters = (piece.strip() for piece in part.split(";"))
    given = dict(parameter.split("=", 1) for parameter in parameters if "=" in parameter)
    try:
        weight = float(given.get("q", "1"))
    except ValueError:
        weight = 0.0
    return media_type, weight if 0 <= weight <= 1 else 0.0


def _weight(media_type: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """By the most specific range that has it."""
    for specific, wanted in (
        (2, media_type),
        (1, media_type.split("/", maxsplit=1)[0] + "/*"),
        (0, "*/*"),
    ):
        found = [weight for one, weight in ranges if one == wanted]
        if found:
            return (max(found), specific) if max(found) else (0.0, 0)
    return 0.0, 0
