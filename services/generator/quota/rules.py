"""Limits calls by several token buckets at once, such as requests and tokens a minute.

A call reserves the upper bound of all its needs together, or waits its turn. Calls of jobs that
have begun go first, then the job with the smallest virtual time of the fair queue, then the oldest
call. Only the first call of the queue may be granted, so small calls never starve a large one.
Buckets refill continuously and hold at most
`burst_s` seconds of their rate. A larger call may go when the bucket is full, and leaves a debt
that the refill pays off. The unused part of a reservation is not returned: it shows in the
provider's headers and raises the pace.

Nothing is granted before a share is assigned, during a rebalance, or once another worker may own
the share.
"""

from bisect import insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from services.generator.quota.concurrency import PermitSupply
from services.generator.quota.learned_pace import LearnedPace
from services.generator.quota.provider_bucket import ACCOUNT_FLOOR, BucketMark, ProviderBucket

_WINDOW_S = 60


@dataclass(slots=True)
class _TokenBucket:
    provider: ProviderBucket
    share: float = 0.0
    level: float = 0.0

    @property
    def rate(self) -> float:
        """This worker's share of the limit, in units a second."""
        return self.provider.limit * self.share / 60

    @property
    def refill_rate(self) -> float:
        return self.rate * self.provider.pace

    def capacity(self, burst_s: float) -> float:
        return self.rate * burst_s

    def refill(self, seconds: float, burst_s: float) -> None:
        rate = self.rate
        self.level = min(self.level + rate * self.provider.pace * seconds, rate * burst_s)
        self.provider.advance(seconds, self.share)

    def take(self, need: float) -> None:
        self.level -= need
        self.provider.spend(need)

    def seconds_until(self, before: float, need: float, burst_s: float) -> float:
        """Return the seconds until `need` is available after `before` has been taken.

        A need above the capacity waits until the bucket is full.
        """
        if self.rate <= 0:  # this worker owns no partition
            return inf
        missing = before + min(need, self.capacity(burst_s)) - self.level
        return max(0.0, missing / self.refill_rate)


class PermitRank(NamedTuple):
    """The order of calls in a permit queue."""

    starts_job: bool = False
    """The call is the first of its job. Calls of jobs that have begun go before it."""
    value: float = 0.0
    """The permit rank that the fair queue gave to the job."""


FIRST = PermitRank()


@dataclass(slots=True, eq=False)
class Reservation:
    """The upper bound of a call's cost, in the queue or granted."""

    needs: Mapping[str, float]
    requested_at: float
    rank: PermitRank = FIRST
    granted: dict[str, BucketMark] = field(default_factory=dict)
    """The mark of each resource's bucket after the grant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """The right to start one call, on the quota of one partition."""

    provider: str
    partition: int
    granted_at: datetime
    """By this worker's clock, like its checkpoints."""
    reservation: Reservation
    waited_s: float = 0.0
    granted_monotonic: float = 0.0
    """By the limiter's clock, in seconds."""


class RateLimiter:
    """Grants reservations. `limits` are the account's, in units a minute; `now` is monotonic."""

    def __init__(
        self,
        limits: Mapping[str, float],
        *,
        burst_s: float,
        now: float,
        floor: float = ACCOUNT_FLOOR,
    ) -> None:
        self._burst_s = burst_s
        self._buckets = {
            resource: _TokenBucket(provider=ProviderBucket(limit, floor=floor))
            for resource, limit in limits.items()
        }
        self._queue: list[Reservation] = []
        """In the order of their ranks; equal ranks in the order of arrival."""
        self._recent: dict[str, deque[tuple[int, float]]] = {
            resource: deque() for resource in limits
        }
        self._now = now
        self._cooling_until = now
        self._share_until = inf
        self._headers_at = now
        self._paused = True
        self._pace = LearnedPace()

    def assign_share(self, share: float, levels: Mapping[str, float], now: float) -> None:
        """Own this share (0 to 1) of the account from now on, with the restored levels.

        A negative level is debt.
        """
        self._advance(now)
        self._paused = False
        self._pace.share = share
        for resource, bucket in self._buckets.items():
            bucket.share = share
            bucket.level = min(levels.get(resource, 0.0), bucket.capacity(self._burst_s))

    def pause_grants(self, now: float) -> None:
        """Grant nothing until the next `assign_share`: the share is about to move."""
        self._advance(now)
        self._paused = True

    def own_share_until(self, until: float) -> None:
        """Limit grants to the time until `until`: later another worker may own the share."""
        self._share_until = until

    def owns_share(self, now: float) -> bool:
        """Return whether this worker still owns the share, as far as it knows."""
        return now <= self._share_until

    def reserve(
        self, needs: Mapping[str, float], now: float, rank: PermitRank = FIRST
    ) -> Reservation:
        """Queue a reservation by its rank.

        Raises `ValueError` for a call above the account's limit.
        """
        for resource, need in needs.items():
            # A lower limit in the headers may be temporary.
            if need > (limit := self._buckets[resource].provider.configured_limit):
                raise ValueError(
                    f"a call of {need:g} {resource} is over the limit of {limit:g} a minute"
                )
        reservation = Reservation(needs=dict(needs), requested_at=now, rank=rank)
        if not self._queue or self._queue[-1].rank <= rank:
            self._queue.append(reservation)
        else:
            insort(self._queue, reservation, key=attrgetter("rank"))
        return reservation

    def cancel_reservation(self, reservation: Reservation) -> None:
        """Remove a reservation from the queue, if it is not granted yet."""
        if reservation in self._queue:
            self._queue.remove(reservation)

    def grant_ready(self, now: float) -> list[Reservation]:
        """Grant and charge the first reservations of the queue whose needs are available."""
        self._advance(now)
        granted: list[Reservation] = []
        while self._queue and self._is_ready(self._queue[0], now):
            reservation = self._queue.pop(0)
            for resource, need in reservation.needs.items():
                bucket = self._buckets[resource]
                bucket.take(need)
                reservation.granted[resource] = bucket.provider.mark()
                self._add_recent(resource, need, now)
            self._pace.record_call(now)
            granted.append(reservation)
        return granted

    def record_usage(self, reservation: Reservation, used: Mapping[str, float], now: float) -> None:
        """Charge the usage of a granted call beyond its reservation, as debt if necessary."""
        self._advance(now)
        for resource, amount in used.items():
            bucket = self._buckets[resource]
            # The limit caps implausible answers.
            excess = min(amount, bucket.provider.configured_limit) - reservation.needs[resource]
            bucket.provider.correct_usage(excess)
            if excess > 0:
                bucket.level -= excess  # the provider's bucket is corrected by the headers
                self._add_recent(resource, excess, now)

    def seconds_until_next_grant(self, now: float) -> float | None:
        """Return the seconds until the first reservation is granted.

        `None` for an empty queue, infinite without a share.
        """
        if not self._queue:
            return None
        self._advance(now)
        return self._wait_s(now, {}, self._queue[0])

    def estimate_waits(self, now: float) -> list[float]:
        """Estimate the seconds until each queued reservation is granted, at the current pace."""
        self._advance(now)
        before: dict[str, float] = dict.fromkeys(self._buckets, 0.0)
        waits = list[float]()
        for place, reservation in enumerate(self._queue):
            waits.append(self._wait_s(now, before, reservation, place))
            for resource, need in reservation.needs.items():
                before[resource] += need
        return waits

    def find_late_reservations(self, within_s: float, now: float) -> list[Reservation]:
        """Return the queued reservations that will not be granted within these seconds."""
        waits = self.estimate_waits(now)
        return [
            reservation
            for reservation, wait_s in zip(self._queue, waits, strict=True)
            if wait_s > within_s
        ]

    def estimate_wait(
        self, needs: Mapping[str, float], now: float, rank: PermitRank = FIRST
    ) -> float:
        """Estimate the seconds until a call with these needs and this rank would be granted.

        Infinite without a share.
        """
        self._advance(now)
        earlier = [queued for queued in self._queue if queued.rank <= rank]
        before = {
            name: sum(reservation.needs.get(name, 0.0) for reservation in earlier)
            for name in self._buckets
        }
        last = Reservation(needs=needs, requested_at=now)
        return self._wait_s(now, before, last, len(earlier))

    def count_affordable(self, needs: Mapping[str, float], within_s: float, now: float) -> float:
        """Return how often the permits of the next seconds cover these needs, without a queue."""
        self._advance(now)
        seconds = max(within_s - self.cool_down_left(now), 0.0)
        if self._paused or not self.owns_share(now):
            return 0.0
        counts = [
            max(bucket.level + bucket.refill_rate * seconds, 0.0) / needs[resource]
            for resource, bucket in self._buckets.items()
        ]
        return min(*counts, self._pace.count_calls(seconds) / needs[self.resources[0]])

    def estimate_supply(
        self, job_needs: Mapping[str, float], within_s: float, now: float
    ) -> PermitSupply:
        """Estimate how many jobs with these needs the permits of the next seconds start."""
        return PermitSupply(
            jobs=self.count_affordable(job_needs, within_s, now),
            waiting=self.queued_starts,
            jobs_per_s=self.sustained_rate(job_needs),
            lowest_waiting_rank=next(
                (queued.rank.value for queued in self._queue if queued.rank.starts_job), inf
            ),
        )

    def sustained_rate(self, needs: Mapping[str, float]) -> float:
        """Return how often a second the refill covers these needs, without any saved level."""
        rates = [
            bucket.rate * min(bucket.provider.pace, 1.0) / needs[resource]
            for resource, bucket in self._buckets.items()
        ]
        return min(*rates, self._pace.count_calls(1.0) / needs[self.resources[0]])

    def apply_headers(
        self, reservation: Reservation, resource: str, *, limit: float, remaining: float, now: float
    ) -> None:
        """Apply the rate limit headers of a granted call's answer."""
        self._advance(now)
        self._headers_at = now
        bucket = self._buckets[resource].provider
        granted = reservation.granted.get(resource) or bucket.mark()
        bucket.apply_headers(granted, limit=limit, remaining=remaining)

    def record_served(self, now: float) -> None:
        """Record that the provider served a call: a learned pace may rise."""
        self._pace.record_served(now, ceiling_per_s=self._account_calls_per_s)

    def record_throttled(
        self, job: UUID, requested_at: float, now: float, *, requested_delay: float | None
    ) -> None:
        """Record a 429 for a job. Those of two jobs lower the pace and stop all grants a while."""
        pause = self._pace.record_throttled(job, requested_at, now, requested_delay=requested_delay)
        self._cooling_until = max(self._cooling_until, now + pause)
        for bucket in self._buckets.values():
            bucket.provider.distrust_surplus()

    def cool_down_left(self, now: float) -> float:
        return max(0.0, self._cooling_until - now)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def queued_starts(self) -> int:
        """Return how many queued calls are the first of their jobs."""
        return sum(reservation.rank.starts_job for reservation in self._queue)

    @property
    def resources(self) -> tuple[str, ...]:
        return tuple(self._buckets)

    def limit_of(self, resource: str) -> float:
        """Return the account's limit in units a minute."""
        return self._buckets[resource].provider.limit

    def pace_of(self, resource: str) -> float:
        """Return the factor on the refill rate; 1 is exactly this worker's share."""
        pace = self._buckets[resource].provider.pace
        if self._pace.per_s is None:
            return pace
        return min(pace, self._pace.per_s / self._account_calls_per_s)

    def level_of(self, resource: str, now: float) -> float:
        """Return the level of the bucket; negative is debt."""
        self._advance(now)
        return self._buckets[resource].level

    def usage_of(self, resource: str, now: float) -> float:
        """Return the amount charged in the last 60 seconds."""
        recent = self._recent[resource]
        while recent and recent[0][0] <= now - _WINDOW_S:
            recent.popleft()
        return sum(amount for _, amount in recent)

    @property
    def _account_calls_per_s(self) -> float:
        """The account's limit on calls, which every limiter lists first."""
        return next(iter(self._buckets.values())).provider.limit / 60

    def _is_ready(self, reservation: Reservation, now: float) -> bool:
        """Return whether `_wait_s` is zero, at less cost."""
        if self._paused or now > self._share_until or now < self._cooling_until:
            return False
        for name, need in reservation.needs.items():
            bucket = self._buckets[name]
            level = bucket.level
            if level < need and level < bucket.capacity(self._burst_s):
                return False
            if bucket.share <= 0:
                return False
        return self._pace.per_s is None or self._pace.seconds_until_call(now) <= 0

    def _wait_s(
        self, now: float, before: Mapping[str, float], reservation: Reservation, place: int = 0
    ) -> float:
        if self._paused or not self.owns_share(now):
            return inf
        needs = reservation.needs.items()
        waits = [
            self._buckets[name].seconds_until(before.get(name, 0.0), need, self._burst_s)
            for name, need in needs
        ]
        return max(
            *waits, self._pace.seconds_until_call(now, place), self._cooling_until - now, 0.0
        )

    def _add_recent(self, resource: str, amount: float, now: float) -> None:
        recent, second = self._recent[resource], int(now)
        if recent and recent[-1][0] == second:
            amount += recent.pop()[1]
        recent.append((second, amount))

    def _advance(self, now: float) -> None:
        seconds = now - self._now
        if seconds <= 0:
            return
        self._now = now
        for bucket in self._buckets.values():
            # A full bucket has refilled since the last headers: they are out of date.
            if now - self._headers_at > _WINDOW_S:
                bucket.provider.reset()
            bucket.refill(seconds, self._burst_s)
