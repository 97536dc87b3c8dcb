"""The pace by the provider's headers, in a closed loop: real buckets, real delays, several workers, a stranger."""

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
"""Tokens that we reserve; the provider charges a part of them."""


@dataclass
class Outcome:
    refused: int
    used: float
    """Of what the account allowed in the second and third minute, all applications together."""
    ours: float


def run(
    *, workers: int, charged: float, latency_s: float, stranger: float = 0.0, seconds: int = 180
) -> Outcome:
    """Workers that always have work, against one bucket. `stranger`: tokens a minute of another application."""
    bucket, now, step = MinuteBucket(LIMIT, 0.0), 0.0, 0.1
    fleet = [RateLimiter({"tokens": LIMIT}, burst_s=1.5, now=0.0) for _ in range(workers)]
    answers: list[tuple[float, int, int, Reservation, float]] = []
    refused = number = 0
    used = ours = 0.0
    for limiter in fleet:
        limiter.assign_share(1 / workers, {}, 0.0)
        for _ in range(60):
            limiter.reserve({"tokens": CALL}, 0.0)
    while now < seconds:
        now += step
        while answers and answers[0][0] <= now:
            _, _, which, ticket, left = heapq.heappop(answers)
            fleet[which].apply_headers(ticket, "tokens", limit=LIMIT, remaining=left, now=now)
        if stranger and bucket.wait_s(stranger / 60 * step, now) == 0:
            bucket.take(stranger / 60 * step, now)
            used += stranger / 60 * step if now > 60 else 0.0
        for which, limiter in enumerate(fleet):
            for ticket in limiter.grant_ready(now):
                limiter.reserve({"tokens": CALL}, now)
                number += 1
                if bucket.wait_s(CALL * charged, now) > 0:
                    refused += 1
                    continue
                bucket.take(CALL * charged, now)
                if now > 60:
                    used, ours = used + CALL * charged, ours + CALL * charged
                heapq.heappush(
                    answers, (now + latency_s, number, which, ticket, bucket.remaining(now))
                )
    allowed = LIMIT / 60 * (seconds - 60)
    return Outcome(refused=refused, used=used / allowed, ours=ours / allowed)


@given(st.integers(1, 8), st.floats(0.55, 1.0), st.floats(0.2, 20))
@settings(max_examples=40, deadline=None)
def test_every_token_is_used_and_no_limit_broken_whatever_part_of_a_reservation_is_charged(
    workers: int, charged: float, latency_s: float
) -> None:
    outcome = run(workers=workers, charged=charged, latency_s=latency_s)
    assert outcome.refused == 0
    assert outcome.used >= 0.985


@given(st.integers(1, 8), st.floats(0.1, 0.8))
@settings(max_examples=20, deadline=None)
def test_another_application_gets_what_it_takes_and_we_the_rest(workers: int, part: float) -> None:
    outcome = run(workers=workers, charged=1.0, latency_s=2, stranger=part * LIMIT)
    assert outcome.refused == 0
    assert outcome.ours == pytest.approx(1 - part, abs=0.15)
    assert outcome.used >= 0.95


def test_without_headers_the_pace_is_our_share() -> None:
    assert ProviderBucket(100).pace == 1.0


@pytest.mark.parametrize(("limit", "remaining"), [(-1, -1), (0, 0), (100, -1)])
def test_headers_that_say_nothing_change_nothing(limit: float, remaining: float) -> None:
    account = ProviderBucket(100)
    account.apply_headers(limit=limit, remaining=remaining, passed_since=0, spent_since=0)
    assert (account.pace, account.limit) == (1.0, 100)


def test_a_lower_limit_in_the_headers_is_believed_and_a_higher_one_is_not_used() -> None:
    account = ProviderBucket(100)
    account.apply_headers(limit=50, remaining=50, passed_since=0, spent_since=0)
    assert account.limit == 50
    account.apply_headers(limit=1_000, remaining=1_000, passed_since=0, spent_since=0)
    assert (account.limit, account.pace) == (100, 1.0)


def test_what_was_heard_a_minute_ago_is_forgotten() -> None:
    """A limit that was low for a moment, or a neighbour who has left, must not hold us up for ever."""
    limiter = RateLimiter({"tokens": 60_000}, burst_s=1.5, now=0)
    limiter.assign_share(1, {"tokens": 1_500}, 0)
    ticket = limiter.reserve({"tokens": 5_000}, 0)
    assert limiter.grant_ready(0) == [ticket]
    limiter.apply_headers(ticket, "tokens", limit=600, remaining=0, now=1)
    assert limiter.limit("tokens") == 600
    waiting = limiter.reserve({"tokens": 5_000}, 1)
    assert limiter.grant_ready(60) == []
    assert limiter.grant_ready(67) == [waiting]
    assert limiter.limit("tokens") == 60_000
