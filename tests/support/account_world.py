"""Simulates one provider account, its workers and another application, in steps of time.

The workers run the production limiter. The provider decides about each call when it arrives, and
its answer brings the headers after the call's latency.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from uuid import UUID

from sandbox.providers.bucket import MinuteBucket
from services.generator.quota.provider_bucket import ACCOUNT_FLOOR
from services.generator.quota.rules import RateLimiter, Reservation

STEP_S = 0.1


class MinuteWindow:
    """A limit that is full again at each minute, and does not refill in between.

    The first minute ends `offset_s` early.
    """

    def __init__(self, limit: float, now: float, *, offset_s: float) -> None:
        self.limit = limit
        self._offset_s = offset_s
        self._window, self._used = self._number(now), 0.0

    def wait_s(self, need: float, now: float) -> float:
        """Return the seconds until `need` units are available; 0 when they already are."""
        if self.remaining(now) >= need:
            return 0.0
        return 60.0 - (now + self._offset_s) % 60

    def take(self, need: float, now: float) -> None:
        self._begin_window(now)
        self._used += need

    def remaining(self, now: float) -> float:
        self._begin_window(now)
        return self.limit - self._used

    def _begin_window(self, now: float) -> None:
        if self._number(now) != self._window:
            self._window, self._used = self._number(now), 0.0

    def _number(self, now: float) -> int:
        return int((now + self._offset_s) // 60)


class TenSecondBucket(MinuteBucket):
    """A bucket of ten seconds that reports what a bucket of a minute would have."""

    def __init__(self, limit: float, now: float) -> None:
        super().__init__(limit, now, burst=limit / 6)

    def remaining(self, now: float) -> float:
        return super().remaining(now) + self.limit * 5 / 6


Bucket = MinuteBucket | MinuteWindow
Remaining = Callable[[Bucket, float], float]
"""The `x-ratelimit-remaining` that a provider sends, of its bucket and the time."""


def true_remaining(bucket: Bucket, now: float) -> float:
    return float(int(bucket.remaining(now)))


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherApplication:
    """Another application with the same account: small calls without pause, for a while."""

    part: float
    """Of each of the account's limits."""
    since: float = 0.0
    until: float = 1e9


@dataclass(kw_only=True)
class AccountWorld:
    """Workers with calls of one size. `needs` are the reserved units of each limit."""

    limits: dict[str, float]
    needs: dict[str, float]
    workers: int = 1
    floor: float = ACCOUNT_FLOOR
    latency_s: float = 1.0
    arrival_s: float = 0.0
    """The longest time from a permit to the call's arrival."""
    charged: float = 1.0
    """The part of the reserved tokens that the provider charges."""
    used: float | None = None
    """The part of the reserved tokens that an answer reports; the charged part by default."""
    slots: int = 1_000
    """Calls of one worker at once."""
    calls: float = float("inf")
    """The backlog of all workers."""
    joins_at: float | None = None
    """When one more worker joins."""
    other: OtherApplication | None = None
    bucket: Callable[[float, float], Bucket] = MinuteBucket
    header: Remaining | None = true_remaining
    seed: int = 1

    granted: list[float] = field(default_factory=list)
    """When the provider granted each of the workers' calls."""
    refused: int = 0
    other_granted: list[float] = field(default_factory=list)
    other_refused: int = 0
    lowest: float = 1.0
    """The lowest level of a bucket, as a part of its limit."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._buckets = {name: self.bucket(limit, 0.0) for name, limit in self.limits.items()}
        self._limiters = [self._make_limiter() for _ in range(self.workers)]
        self._busy = [0] * self.workers
        self._divide(0.0)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = count()
        self._left = self.calls
        self._other_due = 0.0

    def _make_limiter(self) -> RateLimiter:
        return RateLimiter(self.limits, burst_s=1.5, now=0.0, floor=self.floor)

    def _divide(self, now: float) -> None:
        """Give each worker an equal share of the account and of the levels."""
        share = 1 / len(self._limiters)
        levels = {
            name: share * sum(limiter.level_of(name, now) for limiter in self._limiters)
            for name in self.limits
        }
        for limiter in self._limiters:
            limiter.assign_share(share, levels, now)

    def _join(self, now: float) -> None:
        self._limiters.append(self._make_limiter())
        self._busy.append(0)
        self._divide(now)

    def run(self, seconds: float) -> "AccountWorld":
        """Run until the backlog is done, or for these seconds."""
        for step in range(int(seconds / STEP_S)):
            now = step * STEP_S
            if self.joins_at is not None and now >= self.joins_at > now - STEP_S:
                self._join(now)
            self._run_events(now)
            self._call_other(now)
            for worker in self._random.sample(range(len(self._limiters)), len(self._limiters)):
                self._call(worker, now)
            self._run_events(now)
            if not self._left and not any(self._busy):
                break
        return self

    @property
    def makespan_s(self) -> float:
        return self.granted[-1] - self.granted[0]

    def rate(self, since: float, until: float) -> float:
        """Return the workers' granted calls a second."""
        return sum(since <= at < until for at in self.granted) / (until - since)

    def other_rate(self, since: float, until: float) -> float:
        return sum(since <= at < until for at in self.other_granted) / (until - since)

    def _call(self, worker: int, now: float) -> None:
        limiter = self._limiters[worker]
        while limiter.queued < 3 and self._busy[worker] < self.slots and self._left:
            limiter.reserve(self.needs, now)
            self._busy[worker] += 1
            self._left -= 1
        for reservation in limiter.grant_ready(now):
            at = now + self._random.uniform(0, self.arrival_s)
            self._schedule(at, self._arrive(worker, reservation))

    def _run_events(self, now: float) -> None:
        while self._events and self._events[0][0] <= now:
            at, _, act = heappop(self._events)
            act(at)

    def _arrive(self, worker: int, reservation: Reservation) -> Callable[[float], None]:
        def act(now: float) -> None:
            charges = {
                name: need * (1.0 if name == "requests" else self.charged)
                for name, need in self.needs.items()
            }
            if any(self._buckets[name].wait_s(need, now) > 1e-9 for name, need in charges.items()):
                self.refused += 1
                self._busy[worker] -= 1
                limiter = self._limiters[worker]
                limiter.record_throttled(
                    UUID(int=self.refused), reservation.requested_at, now, requested_delay=None
                )
                return
            for name, need in charges.items():
                self._buckets[name].take(need, now)
                part = self._buckets[name].remaining(now) / self.limits[name]
                self.lowest = min(self.lowest, part)
            self.granted.append(now)
            latency = self.latency_s * self._random.uniform(0.7, 1.3)
            self._schedule(now + latency, self._answer(worker, reservation, self._headers(now)))

        return act

    def _headers(self, now: float) -> dict[str, float]:
        if self.header is None:
            return {}
        return {name: self.header(bucket, now) for name, bucket in self._buckets.items()}

    def _answer(
        self, worker: int, reservation: Reservation, headers: dict[str, float]
    ) -> Callable[[float], None]:
        def act(now: float) -> None:
            self._busy[worker] -= 1
            limiter = self._limiters[worker]
            limiter.record_served(now)
            for name, remaining in headers.items():
                limit = self.limits[name]
                limiter.apply_headers(reservation, name, limit=limit, remaining=remaining, now=now)
            if "tokens" in self.needs:
                used = self.charged if self.used is None else self.used
                limiter.record_usage(reservation, {"tokens": self.needs["tokens"] * used}, now)

        return act

    def _call_other(self, now: float) -> None:
        if self.other is None or not self.other.since <= now < self.other.until:
            return
        units = {name: limit / 600 for name, limit in self.limits.items()}
        self._other_due += self.other.part * 10 * STEP_S
        while self._other_due >= 1:
            self._other_due -= 1
            if any(self._buckets[name].wait_s(need, now) > 0 for name, need in units.items()):
                self.other_refused += 1
                continue
            self.other_granted.append(now)
            for name, need in units.items():
                self._buckets[name].take(need, now)

    def _schedule(self, at: float, act: Callable[[float], None]) -> None:
        heappush(self._events, (at, next(self._numbers), act))
