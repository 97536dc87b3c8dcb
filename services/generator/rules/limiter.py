"""A limiter over several resources at once (requests and tokens a minute), strictly first in, first out.

A call reserves all of its needs together or waits; whoever came first goes first, so a large call is never starved by
small ones. Buckets refill continuously and hold at most `burst_s` seconds of their rate. A call larger than that may go
when the bucket is full, and leaves a debt that the refill pays off. Buckets start empty: a worker that takes over a
partition cannot spend again what the last owner has just spent.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

_WINDOW_S = 60


@dataclass(slots=True)
class _Bucket:
    rate: float = 0.0
    """Units a second."""
    level: float = 0.0

    def capacity(self, burst_s: float) -> float:
        return self.rate * burst_s

    def refill(self, seconds: float, burst_s: float) -> None:
        self.level = min(self.level + self.rate * seconds, self.capacity(burst_s))

    def seconds_until(self, need: float, burst_s: float) -> float:
        """How long until `need` may be taken; where it never fits, until the bucket is full."""
        if self.rate <= 0:  # we own no partition: nothing is ours to spend
            return float("inf")
        return max(0.0, (min(need, self.capacity(burst_s)) - self.level) / self.rate)


@dataclass(slots=True, eq=False)
class Ticket:
    """A call's place in the line."""

    needs: Mapping[str, float]
    asked_at: float


class Limiter:
    """`limits` are the account's, in units a minute, of which a share is ours. `now` is any monotonic clock."""

    def __init__(self, limits: Mapping[str, float], *, burst_s: float, now: float) -> None:
        self.limits = dict(limits)
        self._burst_s = burst_s
        self._buckets = {resource: _Bucket() for resource in limits}
        self._line: deque[Ticket] = deque()
        self._spent: dict[str, deque[tuple[int, float]]] = {resource: deque() for resource in limits}
        self._at = now
        self._cooling_until = now

    def set_share(self, share: float, now: float) -> None:
        """Own this part (0 to 1) of the account from now on. What is saved up shrinks with it, debt does not."""
        self._advance(now)
        for resource, bucket in self._buckets.items():
            rate = self.limits[resource] * share / 60
            if bucket.level > 0 and bucket.rate > 0:
                bucket.level *= min(1.0, rate / bucket.rate)
            bucket.rate = rate

    def ask(self, needs: Mapping[str, float], now: float) -> Ticket:
        """Stand in line. ValueError for a call that the account could never carry."""
        for resource, need in needs.items():
            if need > self.limits[resource]:
                raise ValueError(
                    f"a call of {need:g} {resource} is over the limit of {self.limits[resource]:g} a minute"
                )
        ticket = Ticket(needs=dict(needs), asked_at=now)
        self._line.append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Leave the line without a grant."""
        if ticket in self._line:
            self._line.remove(ticket)

    def grant(self, now: float) -> list[Ticket]:
        """Those at the head of the line whose needs are met; they are charged at once."""
        self._advance(now)
        granted: list[Ticket] = []
        while self._line and self._wait_s(self._line[0]) <= 0 and now >= self._cooling_until:
            ticket = self._line.popleft()
            for resource, need in ticket.needs.items():
                self._buckets[resource].level -= need
                self._note(resource, need, now)
            granted.append(ticket)
        return granted

    def next_grant_in(self, now: float) -> float | None:
        """Seconds until the head of the line may go; None when nobody waits, infinite while we own no share."""
        if not self._line:
            return None
        self._advance(now)
        return max(self._wait_s(self._line[0]), self._cooling_until - now, 0.0)

    def cool_down(self, seconds: float, now: float) -> None:
        """The provider has said 429 or 503: grant nothing for a while."""
        self._cooling_until = max(self._cooling_until, now + seconds)

    def cooling_for(self, now: float) -> float:
        return max(0.0, self._cooling_until - now)

    @property
    def queued(self) -> int:
        return len(self._line)

    def level(self, resource: str, now: float) -> float:
        self._advance(now)
        return self._buckets[resource].level

    def used(self, resource: str, now: float) -> float:
        """Reserved in the last 60 seconds."""
        spent = self._spent[resource]
        while spent and spent[0][0] <= now - _WINDOW_S:
            spent.popleft()
        return sum(amount for _, amount in spent)

    def _wait_s(self, ticket: Ticket) -> float:
        return max(
            self._buckets[resource].seconds_until(need, self._burst_s) for resource, need in ticket.needs.items()
        )

    def _note(self, resource: str, need: float, now: float) -> None:
        spent, second = self._spent[resource], int(now)
        if spent and spent[-1][0] == second:
            need += spent.pop()[1]
        spent.append((second, need))

    def _advance(self, now: float) -> None:
        seconds = max(0.0, now - self._at)
        self._at = max(self._at, now)
        for bucket in self._buckets.values():
            bucket.refill(seconds, self._burst_s)
