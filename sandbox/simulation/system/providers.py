"""Simulated provider accounts, with the stand-ins' own token bucket of one minute."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from sandbox.providers.bucket import MinuteBucket
from sandbox.simulation.settings import Outage


class ReportedLevel(NamedTuple):
    """One resource in the headers of an answer."""

    resource: str
    limit: float
    remaining: float


class CallStatus(Enum):
    SERVED = 200
    THROTTLED = 429
    FAILED = 503


class SimulatedProvider:
    """One account. It counts what it charges, and the calls that it rejects."""

    __slots__ = ("_outages", "buckets", "charged", "failed", "rejected", "served")

    def __init__(
        self, limits: Mapping[str, float], *, outages: Sequence[Outage] = (), now: float = 0.0
    ) -> None:
        self.buckets = {name: MinuteBucket(limit, now) for name, limit in limits.items()}
        self._outages = tuple(outages)
        self.charged = dict.fromkeys(limits, 0.0)
        """The units of each resource, taken so far."""
        self.served = self.rejected = self.failed = 0

    def admit_call(self, needs: Mapping[str, float], now: float) -> tuple[CallStatus, float]:
        """Decide about a call that arrives. Returns the seconds to wait after a rejection too."""
        if self._outages and any(outage.covers(now) for outage in self._outages):
            self.failed += 1
            return CallStatus.FAILED, 0.0
        for name, need in needs.items():
            wait_s = self.buckets[name].wait_s(need, now)
            if wait_s > 0:
                self.rejected += 1
                return CallStatus.THROTTLED, wait_s
        for name, need in needs.items():
            self.buckets[name].take(need, now)
            self.charged[name] += need
        self.served += 1
        return CallStatus.SERVED, 0.0

    def headers(self, now: float) -> tuple[ReportedLevel, ...]:
        """Return each resource with its limit and what remains of it."""
        return tuple(
            ReportedLevel(name, bucket.limit, bucket.remaining(now))
            for name, bucket in self.buckets.items()
        )
