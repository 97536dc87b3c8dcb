"""What the judge wrote down, and what follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """An account's limits a minute."""

    rpm: int
    tpm: int


AMPLE = Limits(rpm=60_000, tpm=400_000_000)
"""So much that no call waits for it: the limiter's bucket begins empty, and has filled after some milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The judged time, in seconds after the first call."""

    since: float
    until: float

    def part(self, of: float) -> float:
        """The second at which this part (0 to 1) of the window is over."""
        return self.since + (self.until - self.since) * of


@dataclass(frozen=True, slots=True)
class Decision:
    """One call as the judge met it."""

    at: float
    tokens: int
    granted: bool

    @classmethod
    def read(cls, line: str) -> Self:
        at, tokens, granted = line.split()
        return cls(float(at), int(tokens), granted == "1")


@dataclass(frozen=True, slots=True)
class Audit:
    """All decisions of one run, in order."""

    decisions: Sequence[Decision]

    @property
    def refused(self) -> int:
        """429s, from the first call to the last."""
        return sum(not decision.granted for decision in self.decisions)

    @property
    def granted(self) -> int:
        return len(self.decisions) - self.refused

    def use(self, limits: Limits, window: Window) -> float:
        """What was charged within the window, as a part of what the tighter limit gives in that time."""
        began = self.decisions[0].at
        charged = [
            decision
            for decision in self.decisions
            if decision.granted and window.since <= decision.at - began < window.until
        ]
        minutes = (window.until - window.since) / 60
        requests = len(charged) / (limits.rpm * minutes)
        tokens = sum(decision.tokens for decision in charged) / (limits.tpm * minutes)
        return max(requests, tokens)
