"""How fair it was: numbers over what was served, by store or account, each divided by its weight. Pure."""

from collections.abc import Collection


def jain(parts: Collection[float]) -> float:
    """Jain's index: 1 when all parts are equal, 1/n when one has everything. 1 for nobody."""
    squares = sum(part * part for part in parts)
    return sum(parts) ** 2 / (len(parts) * squares) if squares else 1.0


def largest_gap(parts: Collection[float]) -> float:
    """The difference between who got most and who got least."""
    return max(parts, default=0.0) - min(parts, default=0.0)
