"""Small provider accounts: the provider's own bucket never refuses a call, with any workers.

The simulation runs the production rules of several workers against a bucket that holds a minute's
limit, as the provider has it. Time is simulated in steps.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

import pytest

from sandbox.providers.bucket import MinuteBucket
from services.generator.blog.prompts import largest_call_tokens
from services.generator.quota.rules import RateLimiter, Reservation
from shared.domain.quota_layout import QuotaLayout, count_carried_calls, spendable_part
from tests.support.text_accounts import make_text_account

PARTITIONS, STEP_S, MINUTES = 24, 0.05, 8
LARGEST = largest_call_tokens(make_text_account())
COLD_S, WARM_S = 1.2, 0.02
"""Seconds from a permit to its call's arrival: the first call of a worker opens a connection."""


def worker_shares(limits: dict[str, float], workers: int) -> Iterator[float]:
    """Yield the share of each worker that owns a carrying partition."""
    sizes = {"requests": 1.0, "tokens": float(LARGEST)}
    calls = {name: count_carried_calls(limits[name], sizes[name]) for name in limits}
    carrying = set(QuotaLayout(partitions=PARTITIONS, calls=calls).carrying_partitions(calls))
    part = min(spendable_part(limits[name], sizes[name], len(carrying)) for name in limits)
    size, larger = divmod(PARTITIONS, workers)
    start = 0
    for number in range(workers):
        end = start + size + (number < larger)
        if owned := len(carrying.intersection(range(start, end))):
            yield owned / len(carrying) * part
        start = end


@dataclass
class SmallAccount:
    """The workers of one account, and the provider's buckets."""

    limits: dict[str, float]
    workers: int
    headers: bool
    served: int = 0
    refused: int = 0
    limiters: list[RateLimiter] = field(default_factory=list)
    _events: list[tuple[float, int, RateLimiter, Reservation, dict[str, float] | None]] = field(
        default_factory=list
    )
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))

    def __post_init__(self) -> None:
        self._random = random.Random(self.workers)
        self._buckets = {name: MinuteBucket(limit, 0) for name, limit in self.limits.items()}
        self._warm: set[int] = set()
        for share in worker_shares(self.limits, self.workers):
            limiter = RateLimiter(self.limits, burst_s=1.5, now=0)
            limiter.assign_share(share, {}, 0)
            self.limiters.append(limiter)

    def run(self) -> None:
        for step in range(int(MINUTES * 60 / STEP_S)):
            now = step * STEP_S
            while self._events and self._events[0][0] <= now:
                at, _, limiter, reservation, remaining = heappop(self._events)
                if remaining is None:
                    self._arrive(at, limiter, reservation)
                else:
                    self._answer(at, limiter, reservation, remaining)
            for limiter in self.limiters:
                self._call(limiter, now)

    def _call(self, limiter: RateLimiter, now: float) -> None:
        while limiter.queued < 2:
            limiter.reserve({"requests": 1, "tokens": self._random.choice([3_000, LARGEST])}, now)
        for reservation in limiter.grant_ready(now):
            delay = WARM_S if id(limiter) in self._warm else COLD_S
            self._warm.add(id(limiter))
            self._schedule(now + delay, limiter, reservation, None)

    def _arrive(self, at: float, limiter: RateLimiter, reservation: Reservation) -> None:
        needs = reservation.needs
        if any(self._buckets[name].wait_s(need, at) > 1e-9 for name, need in needs.items()):
            self.refused += 1
            return
        self.served += 1
        for name, need in needs.items():
            self._buckets[name].take(need, at)
        remaining = {name: self._buckets[name].remaining(at) for name in needs}
        self._schedule(at + self._random.uniform(0.5, 5), limiter, reservation, remaining)

    def _answer(
        self, at: float, limiter: RateLimiter, reservation: Reservation, remaining: dict[str, float]
    ) -> None:
        for name, level in remaining.items() if self.headers else ():
            limit = self.limits[name]
            limiter.apply_headers(reservation, name, limit=limit, remaining=int(level), now=at)

    def _schedule(
        self,
        at: float,
        limiter: RateLimiter,
        reservation: Reservation,
        remaining: dict[str, float] | None,
    ) -> None:
        heappush(self._events, (at, next(self._numbers), limiter, reservation, remaining))


@pytest.mark.parametrize("headers", [False, True], ids=["no headers", "headers"])
@pytest.mark.parametrize("workers", [1, 2, 4, 7])
@pytest.mark.parametrize(
    ("requests", "tokens"),
    [(3, 40_000), (3, 1_000_000), (500, 30_000), (20, 60_000), (1, LARGEST)],
)
def test_provider_never_refuses_a_call(
    requests: float, tokens: float, workers: int, headers: bool
) -> None:
    account = SmallAccount({"requests": requests, "tokens": tokens}, workers, headers)
    account.run()
    assert account.refused == 0
    mean_tokens = (3_000 + LARGEST) / 2
    possible = MINUTES * min(requests, tokens / mean_tokens)
    assert account.served >= 0.75 * possible, "the account is used"


def test_without_the_reserve_the_provider_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation finds the error that the reserve prevents."""
    monkeypatch.setattr(f"{__name__}.spendable_part", lambda *_: 1.0)
    account = SmallAccount({"requests": 3, "tokens": 1_000_000}, 4, headers=False)
    account.run()
    assert account.refused > 0
