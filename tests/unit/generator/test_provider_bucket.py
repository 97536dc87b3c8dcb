"""The pace from the provider's headers, simulated with workers and another application."""

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.quota.provider_bucket import ACCOUNT_FLOOR, BucketMark, ProviderBucket
from services.generator.quota.rules import RateLimiter
from tests.support.account_world import (
    AccountWorld,
    Bucket,
    MinuteWindow,
    OtherApplication,
    TenSecondBucket,
)

_BY_REQUESTS: dict[str, Any] = {"limits": {"requests": 600.0}, "needs": {"requests": 1.0}}
_BY_TOKENS: dict[str, Any] = {
    "limits": {"requests": 60_000.0, "tokens": 200_000.0},
    "needs": {"requests": 1.0, "tokens": 4_000.0},
}
_ACCOUNTS = st.sampled_from([_BY_REQUESTS, _BY_TOKENS])
_WORKERS = st.integers(1, 8)
_LATENCIES = st.floats(0.3, 10)
"""Each call takes up to 1.3 times as long."""
_ARRIVALS = st.floats(0, 1)
_ONE_CALL_PER_S = 1 / 120
"""One call more or less within two minutes."""
_SEEDS = st.integers(0, 10_000)


def calls_per_s(account: dict[str, Any], charged: float = 1.0) -> float:
    """Return the calls a second that the account's tighter limit allows."""
    if account is _BY_REQUESTS:
        return 10.0
    return 200_000 / 60 / (4_000 * charged)


@given(_ACCOUNTS, _WORKERS, st.floats(0.55, 1), st.floats(0.3, 20), _ARRIVALS, _SEEDS)
@settings(max_examples=15, deadline=None)
def test_workers_use_the_whole_limit_without_breaking_it(
    account: dict[str, Any],
    workers: int,
    charged: float,
    latency_s: float,
    arrival_s: float,
    seed: int,
) -> None:
    world = AccountWorld(
        **account,
        workers=workers,
        charged=charged,
        latency_s=latency_s,
        arrival_s=arrival_s,
        seed=seed,
    ).run(180)
    assert world.refused == 0
    assert world.rate(60, 180) >= calls_per_s(account, charged) * 0.985 - _ONE_CALL_PER_S


@given(_WORKERS, _LATENCIES, _ARRIVALS, st.none() | st.floats(1, 30), _SEEDS)
@settings(max_examples=15, deadline=None)
def test_fresh_account_spends_its_saved_minute(
    workers: int, latency_s: float, arrival_s: float, joins_at: float | None, seed: int
) -> None:
    """A backlog of 350 posts, of two calls each."""
    world = AccountWorld(
        **_BY_REQUESTS,
        calls=700,
        workers=workers,
        latency_s=latency_s,
        arrival_s=arrival_s,
        joins_at=joins_at,
        seed=seed,
    ).run(120)
    assert world.refused == 0
    assert len(world.granted) == 700
    assert world.makespan_s <= 0.6 * 70
    assert world.lowest >= ACCOUNT_FLOOR


@given(_WORKERS, _LATENCIES, st.floats(0.55, 1), st.floats(0.3, 1), _SEEDS)
@settings(max_examples=15, deadline=None)
def test_fresh_account_spends_its_saved_tokens(
    workers: int, latency_s: float, charged: float, used: float, seed: int
) -> None:
    """Reservations are upper bounds, the charge is lower, and the reported usage lower still."""
    world = AccountWorld(
        **_BY_TOKENS,
        calls=100,
        workers=workers,
        latency_s=latency_s,
        charged=charged,
        used=charged * used,
        seed=seed,
    ).run(180)
    assert world.refused == 0
    assert world.makespan_s <= 0.85 * 100 / calls_per_s(_BY_TOKENS, charged)


@given(_ACCOUNTS, _WORKERS, st.floats(0, 0.5), _LATENCIES, st.floats(0, 60), _SEEDS)
@settings(max_examples=15, deadline=None)
def test_workers_yield_to_another_application(
    account: dict[str, Any], workers: int, part: float, latency_s: float, since: float, seed: int
) -> None:
    other = OtherApplication(part=part, since=since)
    world = AccountWorld(
        **account, workers=workers, latency_s=latency_s, other=other, seed=seed
    ).run(240)
    assert (world.refused, world.other_refused) == (0, 0)
    ours = world.rate(120, 240) / calls_per_s(account)
    assert ours == pytest.approx(1 - part, abs=0.05)
    assert world.rate(60, 240) / calls_per_s(account) + world.other_rate(60, 240) / 10 >= 0.96


@given(_ACCOUNTS, st.integers(1, 4), _LATENCIES, _SEEDS)
@settings(max_examples=15, deadline=None)
def test_another_application_may_take_the_whole_limit(
    account: dict[str, Any], workers: int, latency_s: float, seed: int
) -> None:
    """The floor and the surplus at rest have room for it until the headers show it."""
    other = OtherApplication(part=1.0, since=60, until=120)
    world = AccountWorld(
        **account, workers=workers, latency_s=latency_s, other=other, seed=seed
    ).run(180)
    assert (world.refused, world.other_refused) == (0, 0)
    assert world.rate(140, 180) / calls_per_s(account) > 0.5, "the workers return"


@given(_ACCOUNTS, _WORKERS, _LATENCIES, st.floats(0, 59), _SEEDS)
@settings(max_examples=15, deadline=None)
def test_limit_that_is_renewed_each_minute_is_kept(
    account: dict[str, Any], workers: int, latency_s: float, offset_s: float, seed: int
) -> None:
    world = AccountWorld(
        **account,
        workers=workers,
        latency_s=latency_s,
        bucket=partial(MinuteWindow, offset_s=offset_s),
        seed=seed,
    ).run(300)
    assert world.refused == 0
    assert world.rate(60, 300) / calls_per_s(account) >= 0.5


@given(_ACCOUNTS, _WORKERS, _LATENCIES, st.floats(0, 1), _SEEDS)
@settings(max_examples=15, deadline=None)
def test_wrong_headers_break_no_limit(
    account: dict[str, Any], workers: int, latency_s: float, part: float, seed: int
) -> None:
    """The provider always reports the same, for example a full bucket."""

    def constant(bucket: Bucket, now: float) -> float:
        return bucket.limit * part

    world = AccountWorld(
        **account, workers=workers, latency_s=latency_s, header=constant, seed=seed
    ).run(240)
    assert world.refused == 0


@given(st.integers(1, 4), _LATENCIES, _SEEDS)
@settings(max_examples=15, deadline=None)
def test_provider_that_reports_too_much_teaches_the_average_rate(
    workers: int, latency_s: float, seed: int
) -> None:
    """After its first 429s no surplus is trusted that the workers did not save themselves."""
    world = AccountWorld(
        **_BY_REQUESTS, workers=workers, latency_s=latency_s, bucket=TenSecondBucket, seed=seed
    ).run(300)
    assert 0 < world.refused <= 8 * workers
    assert world.rate(240, 300) / calls_per_s(_BY_REQUESTS) >= 0.95


@given(_ACCOUNTS, _WORKERS, _LATENCIES, st.floats(0, 0.9), _SEEDS)
@settings(max_examples=15, deadline=None)
def test_any_floor_is_left(
    account: dict[str, Any], workers: int, latency_s: float, floor: float, seed: int
) -> None:
    world = AccountWorld(
        **account, workers=workers, latency_s=latency_s, floor=floor, seed=seed
    ).run(180)
    assert world.refused == 0
    calls = max(workers * need / account["limits"][name] for name, need in account["needs"].items())
    assert world.lowest >= floor - calls - 0.02, "one call of each worker may go below"
    assert world.rate(60, 180) >= calls_per_s(account) * 0.985 - _ONE_CALL_PER_S


def test_pace_is_one_without_headers() -> None:
    assert ProviderBucket(100).pace == 1.0


def apply(bucket: ProviderBucket, *, limit: float, remaining: float) -> None:
    bucket.apply_headers(bucket.mark(), limit=limit, remaining=remaining)


@pytest.mark.parametrize(
    ("remaining", "pace"), [(100, 4.5), (75, 3), (100 * (0.25 + 1 / 6), 1), (20, 0.02)]
)
def test_surplus_above_the_floor_is_spent_within_ten_seconds(remaining: float, pace: float) -> None:
    bucket = ProviderBucket(100, floor=0.25)
    apply(bucket, limit=100, remaining=remaining)
    assert bucket.pace == pytest.approx(pace)


@pytest.mark.parametrize(("limit", "remaining"), [(-1, -1), (0, 0), (100, -1)])
def test_headers_without_values_are_ignored(limit: float, remaining: float) -> None:
    bucket = ProviderBucket(100)
    apply(bucket, limit=limit, remaining=remaining)
    assert (bucket.pace, bucket.limit) == (1.0, 100)


def test_lower_limit_in_headers_applies_and_higher_does_not() -> None:
    bucket = ProviderBucket(100)
    apply(bucket, limit=50, remaining=50)
    assert bucket.limit == 50
    apply(bucket, limit=1_000, remaining=1_000)
    assert (bucket.limit, bucket.pace) == (100, 1.0)


def test_floor_and_surplus_are_parts_of_the_configured_limit() -> None:
    """The limit in the headers may be a day's: nearly all of it may be spent."""
    bucket = ProviderBucket(30, floor=0.25)
    apply(bucket, limit=14_400, remaining=13)
    assert bucket.pace == 1
    apply(bucket, limit=14_400, remaining=10)
    assert bucket.pace == pytest.approx(0.5)


def test_late_answer_of_an_earlier_call_is_ignored() -> None:
    bucket = ProviderBucket(100)
    early = BucketMark(0.0, 0.0)
    bucket.advance(5, share=1)
    apply(bucket, limit=100, remaining=20)
    bucket.apply_headers(early, limit=100, remaining=100)
    assert bucket.pace == pytest.approx(0.02)


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
