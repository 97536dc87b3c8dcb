"""Scripted provider faults. Each fault applies to the next calls that match it, in order."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter

Operation = Literal["create", "poll", "output", "cancel", "read"]
"""What a call does: create a text or prediction, poll, fetch a file, cancel, or read a model."""

FileKind = Literal[
    "png",
    "jpeg",
    "webp",
    "svg",
    "html",
    "octet-stream",
    "empty",
    "redirect",
    "redirect-loop",
    "expired",
    "missing",
]

_CREATION_KINDS = {"failed", "aborted", "stuck", "prediction"}
"""Kinds that decide the life of a prediction when it is created."""


class ScriptedFault(BaseModel):
    """Makes `count` calls fail in the way `kind` names.

    `job`, `step`, `on` and `nth` narrow the match. Without `on`, a fault matches creations, and
    polls unless its kind decides a prediction's life or it names another step.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    kind: str
    count: int | None = Field(1, ge=0)
    """Calls that fail; null: every one."""
    nth: int = Field(1, ge=1)
    """The first matching call that fails; those before it pass."""
    job: str | None = None
    step: str | None = None
    on: Operation | Literal["call"] | None = None

    retry_after: float | None = None
    """Seconds in the `Retry-After` header."""
    seconds: float = 60.0
    """How long `timeout` and `slow_body` last."""
    tokens: int | None = Field(None, ge=0)
    """Tokens to bill for a scripted answer, or reasoning tokens of kind `reasoning`."""

    status: int | str | None = None
    """Of `response`: the HTTP status. Of `prediction` and `status`: the word in the answer."""
    headers: dict[str, str] = Field(default_factory=dict)
    body: Any = None
    """A text is sent as it is, everything else as JSON."""
    body_text: str | None = Field(None, alias="bodyText")

    error: Any = None
    output: Any = None
    """Of `prediction`: the output; `{url}` in its texts is the address of the file."""
    file: FileKind | None = None
    polls: int | None = Field(None, ge=1)
    """Polls that show `status` before the prediction goes on to success; null: all."""

    _seen: int = PrivateAttr(0)

    def claim(self, job: str, step: str, operation: Operation) -> bool:
        """Return whether the fault applies to this call, and count it."""
        if self.count == 0 or self.job not in (None, job) or not self._covers(step, operation):
            return False
        self._seen += 1
        if self._seen < self.nth:
            return False
        if self.count is not None:
            self.count -= 1
        return True

    def _covers(self, step: str, operation: Operation) -> bool:
        if self.on is not None:
            return self.on in ("call", operation) and self.step in (None, step, operation)
        if operation == "poll":
            return self.step in (None, "poll") and self.kind not in _CREATION_KINDS
        return operation == "create" and self.step in (None, step)


_FAULTS = TypeAdapter(list[ScriptedFault])


class FaultScript:
    """The queue of faults of one stand-in, limited to the fault kinds it supports."""

    def __init__(self, known_kinds: Iterable[str]) -> None:
        self._known_kinds = frozenset(known_kinds)
        self._faults: list[ScriptedFault] = []

    def add_faults(self, items: Any) -> None:
        """Append faults from JSON. Raises ValueError for malformed items and unknown kinds."""
        faults = _FAULTS.validate_python(items)
        unknown = [fault.kind for fault in faults if fault.kind not in self._known_kinds]
        if unknown:
            known = ", ".join(sorted(self._known_kinds))
            raise ValueError(f"unknown fault {unknown[0]!r}; known: {known}")
        self._faults += faults

    def clear_faults(self) -> None:
        self._faults.clear()

    def take_next(
        self, job: str, step: str, operation: Operation = "create"
    ) -> ScriptedFault | None:
        """Return the fault for this call, if any, and reduce its count by one."""
        return next((fault for fault in self._faults if fault.claim(job, step, operation)), None)

    def remaining(self) -> list[dict[str, Any]]:
        return [
            {"kind": fault.kind, "count": fault.count} for fault in self._faults if fault.count != 0
        ]
