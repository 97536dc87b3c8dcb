"""Parses query parameters; `InvalidQueryError` has all errors of a request."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.http.query import parameter_name_errors

Pairs = Sequence[tuple[str, str]]
"""Names and values in the order of the URL."""


class InvalidQueryError(Exception):
    """`errors` has one entry for each invalid parameter."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{error['field']} {error['detail']}" for error in errors))
        self.errors = errors


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerParameter:
    """A whole number from `low` to `high`; `default` when it is absent."""

    default: int
    low: int
    high: int

    def parse(self, text: str) -> int | None:
        if not text.isascii() or not text.isdecimal() or len(text) > 9:
            return None
        return int(text) if self.low <= int(text) <= self.high else None

    def __str__(self) -> str:
        return f"must be a whole number from {self.low} to {self.high}"


def parse_integers(query: Pairs, **wanted: IntegerParameter) -> dict[str, int]:
    """Return the value of each wanted parameter.

    Raises `InvalidQueryError` with all errors at once.
    """
    errors = parameter_name_errors((name for name, _ in query), wanted)
    values = {name: parameter.default for name, parameter in wanted.items()}
    for name, text in dict(query).items():
        if name in wanted and (value := wanted[name].parse(text)) is not None:
            values[name] = value
        elif name in wanted:
            errors.append({"field": name, "detail": str(wanted[name])})
    if errors:
        raise InvalidQueryError(errors)
    return values


def parse_choice(query: Pairs, name: str, choices: tuple[str, ...], default: str) -> str:
    """Return the value of the only known parameter, one of `choices`."""
    errors = parameter_name_errors((given for given, _ in query), (name,))
    value = dict(query).get(name, default)
    if value not in choices:
        errors.append({"field": name, "detail": f"must be one of {', '.join(choices)}"})
    if errors:
        raise InvalidQueryError(errors)
    return value
