"""Scripted provider faults. Each fault applies to the next calls that match it, in order."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, kw_only=True)
class ScriptedFault:
    """Makes `count` calls fail in the way `kind` names. `job` and `step` narrow the match."""

    kind: str
    count: int = 1
    retry_after: float | None = None
    seconds: float = 60.0
    job: str | None = None
    step: str | None = None

    def matches(self, job: str, step: str) -> bool:
        return self.count > 0 and self.job in (None, job) and self.step in (None, step)


class FaultScript:
    """The queue of faults of one stand-in, limited to the fault kinds it supports."""

    def __init__(self, known_kinds: Iterable[str]) -> None:
        self._known_kinds = frozenset(known_kinds)
        self._faults: list[ScriptedFault] = []

    def add_faults(self, items: Any) -> None:
        """Append faults from JSON. Raises ValueError for malformed items and unknown kinds."""
        try:
            faults = [ScriptedFault(**item) for item in items]
        except TypeError as error:
            raise ValueError(str(error)) from None
        unknown = [fault.kind for fault in faults if fault.kind not in self._known_kinds]
        if unknown:
            known = ", ".join(sorted(self._known_kinds))
            raise ValueError(f"unknown fault {unknown[0]!r}; known: {known}")
        self._faults += faults

    def clear_faults(self) -> None:
        self._faults.clear()

    def take_next(self, job: str, step: str) -> ScriptedFault | None:
        """Return the fault for this call, if any, and reduce its count by one."""
        for fault in self._faults:
            if fault.matches(job, step):
                fault.count -= 1
                return fault
        return None

    def remaining(self) -> list[dict[str, Any]]:
        return [
            {"kind": fault.kind, "count": fault.count} for fault in self._faults if fault.count > 0
        ]
