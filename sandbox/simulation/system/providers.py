"""Simulated provider accounts, with the stand-ins' own token bucket of one minute."""

import random
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from itertools import cycle
from typing import NamedTuple

from sandbox.providers.bucket import MinuteBucket
from sandbox.simulation.settings import (
    IMAGE,
    READS,
    TEXT,
    Outage,
    TextSize,
    WorldSettings,
    limit_name,
)
from sandbox.simulation.system.jobs import JobStep, SimulatedJob

_FACTORS = 1 << 15


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


class ProviderModel:
    """The accounts of all workers, and the random latencies and costs of their calls."""

    def __init__(self, settings: WorldSettings, rng: random.Random) -> None:
        limits = settings.limits
        image_outages = [outage for outage in settings.outages if outage.provider == IMAGE]
        text_outages = [outage for outage in settings.outages if outage.provider == TEXT]
        self.accounts = {
            TEXT: SimulatedProvider(limits[TEXT], outages=text_outages),
            IMAGE: SimulatedProvider(limits[IMAGE], outages=image_outages),
            READS: SimulatedProvider(limits[READS], outages=image_outages),
        }
        self.rng = rng
        sizes = settings.text_sizes
        self.sizes: tuple[TextSize, TextSize] = (sizes.outline, sizes.article)
        self.reserved = [
            {"requests": 1.0, "tokens": float(size.reserved_tokens)} for size in self.sizes
        ]
        self.charged = [
            {"requests": 1.0, "tokens": float(size.charged_tokens)} for size in self.sizes
        ]
        self.used = [{"tokens": float(size.used_tokens)} for size in self.sizes]
        self._medians = (settings.latencies.outline_s, settings.latencies.article_s)
        self._image_s = settings.latencies.image_s
        self._factors = _draw_factors(rng, settings.latencies.spread)
        self._costs = cycle([rng.uniform(0.8, 1.2) for _ in range(_FACTORS)])

    def charged_units(self) -> dict[str, float]:
        """Return the units charged so far, by limit."""
        return {
            limit_name(name, resource): units
            for name, account in self.accounts.items()
            for resource, units in account.charged.items()
        }

    def text_latency(self, step: JobStep) -> float:
        return self._medians[step] * next(self._factors)

    def image_latency(self) -> float:
        return self._image_s * next(self._factors)

    def text_cost(self, job: SimulatedJob, step: JobStep) -> int:
        return round(self.sizes[step].cost * job.cost_factor * next(self._costs))


def _draw_factors(rng: random.Random, spread: float) -> Iterator[float]:
    """Yield log-normal factors around 1, drawn in advance, because a draw is slow."""
    return cycle([rng.lognormvariate(0, spread) for _ in range(_FACTORS)])
