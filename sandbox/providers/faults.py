"""Faults that a test scripts: each is used up by the calls that it matches, in order."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, kw_only=True)
class Fault:
    """`kind` is what goes wrong, `count` how many calls it hits; `job` and `step` narrow it down."""

    kind: str
    count: int = 1
    retry_after: float | None = None
    seconds: float = 60.0
    job: str | None = None
    step: str | None = None

    def matches(self, job: str, step: str) -> bool:
        return self.count > 0 and self.job in (None, job) and self.step in (None, step)


class FaultScript:
    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)
        self._faults: list[Fault] = []

    def add(self, wanted: Any) -> None:
        """ValueError when it is no list of faults of a known kind."""
        try:
            faults = [Fault(**item) for item in wanted]
        except TypeError as error:
            raise ValueError(str(error)) from None
        unknown = [fault.kind for fault in faults if fault.kind not in self._known]
        if unknown:
            raise ValueError(
                f"unknown fault {unknown[0]!r}; known: {', '.join(sorted(self._known))}"
            )
        self._faults += faults

    def clear(self) -> None:
        self._faults.clear()

    def next(self, job: str, step: str) -> Fault | None:
        """The fault that hits this call, now used up by one."""
        for fault in self._faults:
            if fault.matches(job, step):
                fault.count -= 1
                return fault
        return None

    def left(self) -> list[dict[str, Any]]:
        return [
            {"kind": fault.kind, "count": fault.count} for fault in self._faults if fault.count > 0
        ]
