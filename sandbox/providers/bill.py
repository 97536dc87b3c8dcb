"""The bill that a provider would send, per job. Tests use it to find calls that are paid twice."""

from collections import Counter, defaultdict
from typing import Any


class Bill:
    """Counts calls, rejected calls and tokens per job and step.

    A rejected call met a rate limit. A refused call was wrong in itself. Neither is charged.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.rejected = 0
        self._calls: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._steps: dict[str, Counter[str]] = defaultdict(Counter)
        self._refused: Counter[str] = Counter()
        self._canceled: Counter[str] = Counter()

    def record_charge(self, job: str, tokens: int, step: str) -> None:
        self.calls += 1
        self._calls[job] += 1
        self._tokens[job] += tokens
        self._steps[job][step] += 1

    def record_rejection(self) -> None:
        self.rejected += 1

    def record_refusal(self, code: str) -> None:
        """Count a call that was refused for what it asked; `code` is the provider's word."""
        self._refused[code] += 1

    def record_cancellation(self, job: str) -> None:
        """Count a canceled prediction: its creation stays charged, nothing is added."""
        self._canceled[job] += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "standin": True,
            "calls": self.calls,
            "rejected": self.rejected,
            "refused": dict(self._refused),
            "canceled": dict(self._canceled),
            "jobs": {
                job: {"calls": calls, "tokens": self._tokens[job], "steps": dict(self._steps[job])}
                for job, calls in self._calls.items()
            },
        }
