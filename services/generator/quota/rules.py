"""A limiter over several resources at once (requests and tokens a minute), strictly first in, first out.

A call reserves the upper bound of all that it needs together, or waits; whoever came first goes first, so a large call
is never starved by small ones. Buckets refill continuously and hold at most `burst_s` seconds of their rate. A call
larger than that may go when the bucket is full, and leaves a debt that the refill pays off. Nothing is given back by
our own reckoning: what a call did not use shows in the provider's headers, and quickens the pace.

Nothing is granted before a share is owned, while a rebalance goes on, nor longer than the share was lent for.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import inf

from services.generator.quota.provider_bucket import ProviderBucket

_WINDOW_S = 60


@dataclass(slots=True)
class _TokenBucket:
    account: ProviderBucket
    share: float = 0.0
    level: float = 0.0
    spent: float = 0.0
    """All that was ever granted."""

    @property
    def rate(self) -> float:
        """Units a second that are ours."""
        return self.account.limit * self.share / 60

    @property
    def pace(self) -> float:
        return self.rate * self.account.pace

    def capacity(self, burst_s: float) -> float:
        return self.rate * burst_s

    def refill(self, seconds: float, burst_s: float) -> None:
        self.level = min(self.level + self.pace * seconds, self.capacity(burst_s))
        self.account.advance(seconds, self.share)

    def take(self, need: float) -> None:
        self.level -= need
        self.spent += need
        self.account.spend(need)

    def seconds_until(self, before: float, need: float, burst_s: float) -> float:
        """How long until `need` may be taken after `before`; where it never fits, until the bucket is full."""
        if self.rate <= 0:  # we own no partition: nothing is ours to spend
            return inf
        return max(0.0, (before + min(need, self.capacity(burst_s)) - self.level) / self.pace)


@dataclass(slots=True, eq=False)
class Reservation:
    """A call's place in the line."""

    needs: Mapping[str, float]
    requested_at: float
    spent: dict[str, float] = field(default_factory=dict)
    """What had been granted of each resource by then, this call included."""
    accrued: dict[str, float] = field(default_factory=dict)
    """What time had brought each resource by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """The leave to make one call: of which provider's budget, and which partition's part of it."""

    provider: str
    partition: int
    at: datetime
    """By this worker's clock, as its notes are."""
    reservation: Reservation
    waited_s: float = 0.0
    given_at: float = 0.0
    """By the limiter's clock."""


class RateLimiter:
    """`limits` are the account's, in units a minute, of which a share is ours. `now` is any monotonic clock."""

    def __init__(self, limits: Mapping[str, float], *, burst_s: float, now: float) -> None:
        self._burst_s = burst_s
        self._buckets = {
            resource: _TokenBucket(account=ProviderBucket(limit)) for resource, limit in limits.items()
        }
        self._line: deque[Reservation] = deque()
        self._spent: dict[str, deque[tuple[int, float]]] = {
            resource: deque() for resource in limits
        }
        self._at = now
        self._cooling_until = now
        self._lent_until = inf
        self._heard_at = now
        self._paused = True

    def assign_share(self, share: float, levels: Mapping[str, float], now: float) -> None:
        """Own this part (0 to 1) of the account from now on, with what its last owners left (negative is debt)."""
        self._advance(now)
        self._paused = False
        for resource, bucket in self._buckets.items():
            bucket.share = share
            bucket.level = min(levels.get(resource, 0.0), bucket.capacity(self._burst_s))

    def pause(self, now: float) -> None:
        """Grant nothing until the next `assign_share`: the share is about to pass on."""
        self._advance(now)
        self._paused = True

    def lease_until(self, until: float) -> None:
        """The share is ours until then: afterwards somebody else may own it."""
        self._lent_until = until

    def is_leased(self, now: float) -> bool:
        """Whether the share is still ours, as far as we have heard."""
        return now <= self._lent_until

    def reserve(self, needs: Mapping[str, float], now: float) -> Reservation:
        """Stand in line. ValueError for a call that the account could never carry."""
        for resource, need in needs.items():
            if need > (limit := self._buckets[resource].account.configured_limit):  # what headers say may pass
                raise ValueError(
                    f"a call of {need:g} {resource} is over the limit of {limit:g} a minute"
                )
        ticket = Reservation(needs=dict(needs), requested_at=now)
        self._line.append(ticket)
        return ticket

    def cancel_reservation(self, ticket: Reservation) -> None:
        """Leave the line without a grant."""
        if ticket in self._line:
            self._line.remove(ticket)

    def grant_ready(self, now: float) -> list[Reservation]:
        """Those at the head of the line whose needs are met; they are charged at once."""
        self._advance(now)
        granted: list[Reservation] = []
        while self._line and self._wait_s(now, {}, self._line[0]) <= 0:
            ticket = self._line.popleft()
            for resource, need in ticket.needs.items():
                self._buckets[resource].take(need)
                ticket.spent[resource] = self._buckets[resource].spent
                ticket.accrued[resource] = self._buckets[resource].account.accrued
                self._note(resource, need, now)
            granted.append(ticket)
        return granted

    def record_usage(self, ticket: Reservation, used: Mapping[str, float], now: float) -> None:
        """What a granted call has used after all: more than was reserved is spent as well, as a debt if need be."""
        self._advance(now)
        for resource, amount in used.items():
            bucket = self._buckets[resource]
            beyond = (
                min(amount, bucket.account.configured_limit) - ticket.needs[resource]
            )  # an answer may say anything
            if beyond > 0:
                bucket.level -= (
                    beyond  # and nothing of the account's: the headers have it in what is left
                )
                self._note(resource, beyond, now)

    def seconds_until_next_grant(self, now: float) -> float | None:
        """Seconds until the head of the line may go; None when nobody waits, infinite while nothing is ours."""
        if not self._line:
            return None
        self._advance(now)
        return self._wait_s(now, {}, self._line[0])

    def estimate_waits(self, now: float) -> list[float]:
        """Seconds until each in the line may go, in its order, at the present pace."""
        self._advance(now)
        before: dict[str, float] = dict.fromkeys(self._buckets, 0.0)
        waits = list[float]()
        for ticket in self._line:
            waits.append(self._wait_s(now, before, ticket))
            for resource, need in ticket.needs.items():
                before[resource] += need
        return waits

    def apply_headers(
        self, ticket: Reservation, resource: str, *, limit: float, remaining: float, now: float
    ) -> None:
        """What the headers of a granted call's answer say of the account."""
        self._advance(now)
        self._heard_at = now
        bucket = self._buckets[resource]
        bucket.account.apply_headers(
            limit=limit,
            remaining=remaining,
            passed_since=bucket.account.accrued - ticket.accrued.get(resource, bucket.account.accrued),
            spent_since=bucket.spent - ticket.spent.get(resource, bucket.spent),
        )

    def start_cool_down(self, seconds: float, now: float) -> None:
        """The provider has said 429 or 503: grant nothing for a while."""
        self._cooling_until = max(self._cooling_until, now + seconds)

    def cool_down_left(self, now: float) -> float:
        return max(0.0, self._cooling_until - now)

    @property
    def queued(self) -> int:
        return len(self._line)

    @property
    def resources(self) -> tuple[str, ...]:
        return tuple(self._buckets)

    def limit(self, resource: str) -> float:
        """The account's, a minute."""
        return self._buckets[resource].account.limit

    def pace(self, resource: str) -> float:
        """How fast we go, in shares of the limit: 1 is our share exactly."""
        return self._buckets[resource].account.pace

    def level(self, resource: str, now: float) -> float:
        self._advance(now)
        return self._buckets[resource].level

    def used(self, resource: str, now: float) -> float:
        """Reserved in the last 60 seconds."""
        spent = self._spent[resource]
        while spent and spent[0][0] <= now - _WINDOW_S:
            spent.popleft()
        return sum(amount for _, amount in spent)

    def _wait_s(self, now: float, before: Mapping[str, float], ticket: Reservation) -> float:
        if self._paused or not self.is_leased(now):
            return inf
        needs = ticket.needs.items()
        waits = [
            self._buckets[name].seconds_until(before.get(name, 0.0), need, self._burst_s)
            for name, need in needs
        ]
        return max(*waits, self._cooling_until - now, 0.0)

    def _note(self, resource: str, need: float, now: float) -> None:
        spent, second = self._spent[resource], int(now)
        if spent and spent[-1][0] == second:
            need += spent.pop()[1]
        spent.append((second, need))

    def _advance(self, now: float) -> None:
        seconds = max(0.0, now - self._at)
        self._at = max(self._at, now)
        for bucket in self._buckets.values():
            if (
                now - self._heard_at > _WINDOW_S
            ):  # a whole bucket's refill ago: what we knew is no longer so
                bucket.account.reset()
            bucket.refill(seconds, self._burst_s)
