"""Query values: known names with values in range, or `UnknownQueryError` with what is wrong with each."""

from collections.abc import Mapping
from dataclasses import dataclass


class UnknownQueryError(Exception):
    """`errors` names each parameter at fault."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{error['field']} {error['detail']}" for error in errors))
        self.errors = errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
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


def numbers(query: Mapping[str, str], **wanted: Number) -> dict[str, int]:
    """The value of each wanted parameter; all that is wrong is told at once."""
    errors = [{"field": name, "detail": "is not a known parameter"} for name in sorted(set(query) - set(wanted))]
    values = {name: number.default for name, number in wanted.items()}
    for name in wanted.keys() & query.keys():
        value = wanted[name].read(query[name])
        if value is None:
            errors.append({"field": name, "detail": str(wanted[name])})
        else:
            values[name] = value
    if errors:
        raise UnknownQueryError(errors)
    return values


def choice(query: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    """One of a few words; no other parameter is known beside it."""
    errors = [{"field": other, "detail": "is not a known parameter"} for other in sorted(set(query) - {name})]
    value = query.get(name, default)
    if value not in choices:
        errors.append({"field": name, "detail": f"must be one of {', '.join(choices)}"})
    if errors:
        raise UnknownQueryError(errors)
    return value
