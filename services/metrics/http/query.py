"""Query values: known names with values in range, or `InvalidQueryError` with what is wrong with each."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

Pairs = Sequence[tuple[str, str]]
"""Names and values, as they stand in the address."""


class InvalidQueryError(Exception):
    """`errors` names each parameter at fault."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{error['field']} {error['detail']}" for error in errors))
        self.errors = errors


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerParameter:
    """A whole number from `low` to `high`, or `default` when it is left out."""

    default: int
    low: int
    high: int

    def read(self, text: str) -> int | None:
        if not text.isascii() or not text.isdecimal() or len(text) > 9:
            return None
        return int(text) if self.low <= int(text) <= self.high else None

    def __str__(self) -> str:
        return f"must be a whole number from {self.low} to {self.high}"


def numbers(query: Pairs, **wanted: IntegerParameter) -> dict[str, int]:
    """The value of each wanted parameter; all that is wrong is told at once."""
    errors = _unfit(query, wanted)
    values = {name: number.default for name, number in wanted.items()}
    for name, text in dict(query).items():
        if name in wanted and (value := wanted[name].read(text)) is not None:
            values[name] = value
        elif name in wanted:
            errors.append({"field": name, "detail": str(wanted[name])})
    if errors:
        raise InvalidQueryError(errors)
    return values


def choice(query: Pairs, name: str, choices: tuple[str, ...], default: str) -> str:
    """One of a few words; no other parameter is known beside it."""
    errors = _unfit(query, (name,))
    value = dict(query).get(name, default)
    if value not in choices:
        errors.append({"field": name, "detail": f"must be one of {', '.join(choices)}"})
    if errors:
        raise InvalidQueryError(errors)
    return value


def _unfit(query: Pairs, wanted: Collection[str]) -> list[dict[str, str]]:
    times = Counter(name for name, _ in query)
    unknown = [
        {"field": name, "detail": "is not a known parameter"}
        for name in sorted(times.keys() - {*wanted})
    ]
    return unknown + [
        {"field": name, "detail": "must not be given more than once"}
        for name in wanted
        if times[name] > 1
    ]
