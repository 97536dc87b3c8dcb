"""Holds the recorded decisions of the reference provider and computes results from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountLimits:
    """An account's rate limits: requests and tokens a minute."""

    rpm: int
    tpm: int


AMPLE_LIMITS = AccountLimits(rpm=60_000, tpm=400_000_000)
"""Limits that delay no call: the limiter's empty bucket fills within milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredWindow:
    """The measured time, in seconds after the first call."""

    since: float
    until: float

    def second_at(self, fraction: float) -> float:
        """Return the second at which this fraction (0 to 1) of the window is over."""
        return self.since + (self.until - self.since) * fraction


@dataclass(frozen=True, slots=True)
class RateDecision:
    """The provider's decision about one call."""

    at: float
    tokens: int
    granted: bool

    @classmethod
    def parse(cls, line: str) -> Self:
        at, tokens, granted = line.split()
        return cls(float(at), int(tokens), granted == "1")


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """All decisions of one run, in order."""

    decisions: Sequence[RateDecision]

    @property
    def refused(self) -> int:
        """The number of 429 answers in the whole run."""
        return sum(not decision.granted for decision in self.decisions)

    @property
    def granted(self) -> int:
        return len(self.decisions) - self.refused

    def utilization(self, limits: AccountLimits, window: MeasuredWindow) -> float:
        """Return the charged part (0 to 1) of the tighter limit within the window."""
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
