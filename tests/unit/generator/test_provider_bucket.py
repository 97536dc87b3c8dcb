"""The pace from the provider's headers, simulated with workers and another application."""

import heapq
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.providers.bucket import MinuteBucket
from services.generator.quota.provider_bucket import ProviderBucket
from services.generator.quota.rules import RateLimiter, Reservation

LIMIT = 200_000.0
CALL = 4_000.0
"""Reserved tokens; the provider charges a part of them."""


@dataclass
class SimulationResult:
    refused: int
    used: float
    """All applications' part of the tokens that the account allows in minutes two and three."""
    ours: float


def simulate(
    *, workers: int, charged: float, latency_s: float, other_app: float = 0.0, seconds: int = 180
) -> SimulationResult:
    """Run busy workers on one bucket. `other_app`: another application's tokens a minute."""
    bucket, now, step = MinuteBucket(LIMIT, 0.0), 0.0, 0.1
    limiters = [RateLimiter({"tokens": LIMIT}, burst_s=1.5, now=0.0) for _ in range(workers)]
    answers: list[tuple[float, int, int, Reservation, float]] = []
    refused = number = 0
    used = ours = 0.0
    for limiter in limiters:
        limiter.assign_share(1 / workers, {}, 0.0)
        for _ in range(60):
            limiter.reserve({"tokens": CALL}, 0.0)
    while now < seconds:
        now += step
        while answers and answers[0][0] <= now:
            _, _, worker, reservation, remaining = heapq.heappop(answers)
            limiters[worker].apply_headers(
                reservation, "tokens", limit=LIMIT, remaining=remaining, now=now
            )
        if other_app and bucket.wait_s(other_app / 60 * step, now) == 0:
            bucket.take(other_app / 60 * step, now)
            used += other_app / 60 * step if now > 60 else 0.0
        for worker, limiter in enumerate(limiters):
            for reservation in limiter.grant_ready(now):
                limiter.reserve({"tokens": CALL}, now)
                number += 1
                if bucket.wait_s(CALL * charged, now) > 0:
                    refused += 1
                    continue
                bucket.take(CALL * charged, now)
                if now > 60:
                    used, ours = used + CALL * charged, ours + CALL * charged
                heapq.heappush(
                    answers, (now + latency_s, number, worker, reservation, bucket.remaining(now))
                )
    allowed = LIMIT / 60 * (seconds - 60)
    return SimulationResult(refused=refused, used=used / allowed, ours=ours / allowed)


@given(st.integers(1, 8), st.floats(0.55, 1.0), st.floats(0.2, 20))
@settings(max_examples=40, deadline=None)
def test_workers_use_all_tokens_without_breaking_the_limit(
    workers: int, charged: float, latency_s: float
) -> None:
    result = simulate(workers=workers, charged=charged, latency_s=latency_s)
    assert result.refused == 0
    assert result.used >= 0.985


@given(st.integers(1, 8), st.floats(0.1, 0.8))
@settings(max_examples=20, deadline=None)
def test_workers_yield_to_another_application(workers: int, part: float) -> None:
    result = simulate(workers=workers, charged=1.0, latency_s=2, other_app=part * LIMIT)
    assert result.refused == 0
    assert result.ours == pytest.approx(1 - part, abs=0.15)
    assert result.used >= 0.95


def test_pace_is_one_without_headers() -> None:
    assert ProviderBucket(100).pace == 1.0


@pytest.mark.parametrize(("limit", "remaining"), [(-1, -1), (0, 0), (100, -1)])
def test_headers_without_values_are_ignored(limit: float, remaining: float) -> None:
    bucket = ProviderBucket(100)
    bucket.apply_headers(limit=limit, remaining=remaining, accrued_since=0, spent_since=0)
    assert (bucket.pace, bucket.limit) == (1.0, 100)


def test_lower_limit_in_headers_applies_and_higher_does_not() -> None:
    bucket = ProviderBucket(100)
    bucket.apply_headers(limit=50, remaining=50, accrued_since=0, spent_since=0)
    assert bucket.limit == 50
    bucket.apply_headers(limit=1_000, remaining=1_000, accrued_since=0, spent_since=0)
    assert (bucket.limit, bucket.pace) == (100, 1.0)


def test_headers_expire_after_a_minute() -> None:
    """A limit that was low for a moment must not slow the workers for ever."""
    limiter = RateLimiter({"tokens": 60_000}, burst_s=1.5, now=0)
    limiter.assign_share(1, {"tokens": 1_500}, 0)
    reservation = limiter.reserve({"tokens": 5_000}, 0)
    assert limiter.grant_ready(0) == [reservation]
    limiter.apply_headers(reservation, "tokens", limit=600, remaining=0, now=1)
    assert limiter.limit_of("tokens") == 600
    waiting = limiter.reserve({"tokens": 5_000}, 1)
    assert limiter.grant_ready(60) == []
    assert limiter.grant_ready(67) == [waiting]
    assert limiter.limit_of("tokens") == 60_000
