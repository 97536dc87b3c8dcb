"""Refusals in Replicate's words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from sandbox.providers.wire import json_response

NOT_FOUND = "The requested resource could not be found."


@dataclass(frozen=True, slots=True)
class Problem:
    """One input or property that is wrong. `field` is empty for the call itself."""

    kind: str
    field: str
    description: str

    def line(self) -> str:
        return f"- {self.field}: {self.description}" if self.field else f"- {self.description}"


class Refusal(Exception):
    """A call that Replicate does not answer. It is never billed."""

    def __init__(self, status: int, detail: str, *, title: str | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.code = str(status)
        named = {} if title is None else {"title": title}
        self.body: dict[str, Any] = named | {"detail": detail, "status": status} | more

    def response(self) -> Response:
        return json_response(self.body, self.status)


def invalid_input(problems: Sequence[Problem]) -> Refusal:
    return Refusal(
        422,
        "".join(f"{problem.line()}\n" for problem in problems),
        title="Input validation failed",
        invalid_fields=[
            {"type": one.kind, "field": one.field, "description": one.description}
            for one in problems
        ],
    )
