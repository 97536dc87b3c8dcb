"""The rate limiter: rate and burst, first come, first served, no starvation, moving shares."""

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.quota.rules import RateLimiter, Reservation

BURST_S = 2.0


def make_limiter(requests: float = 60, tokens: float = 6_000, share: float = 1.0) -> RateLimiter:
    """Allow one request and 100 tokens a second by default."""
    limiter = RateLimiter({"requests": requests, "tokens": tokens}, burst_s=BURST_S, now=0)
    limiter.assign_share(share, {}, 0)
    return limiter


def reserve(limiter: RateLimiter, tokens: float, now: float) -> Reservation:
    return limiter.reserve({"requests": 1, "tokens": tokens}, now)


def test_bucket_starts_empty_and_fills_at_the_rate() -> None:
    limiter = make_limiter()
    reservation = reserve(limiter, 50, 0)
    assert limiter.grant_ready(0) == []
    assert limiter.seconds_until_next_grant(0) == pytest.approx(1.0)
    assert limiter.grant_ready(1.0) == [reservation]


def test_all_needs_are_granted_together() -> None:
    limiter = make_limiter(requests=6_000)
    reservation = reserve(limiter, 150, 0)
    assert limiter.grant_ready(1.0) == []
    assert limiter.grant_ready(1.5) == [reservation]


def test_small_call_does_not_overtake_a_large_one() -> None:
    limiter = make_limiter(requests=6_000)
    large, small = reserve(limiter, 200, 0), reserve(limiter, 1, 0)
    assert limiter.grant_ready(1.9) == []
    assert limiter.grant_ready(2.0) == [large]
    assert limiter.grant_ready(2.1) == [small]


def test_call_above_burst_leaves_a_debt() -> None:
    limiter = make_limiter(requests=6_000)
    large = reserve(limiter, 1_000, 0)
    assert limiter.grant_ready(2.0) == [large]
    assert limiter.level_of("tokens", 2.0) == pytest.approx(-800)
    reserve(limiter, 1, 2.0)
    assert limiter.seconds_until_next_grant(2.0) == pytest.approx(8.01)


def test_call_above_account_limit_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"6001 tokens is over the limit of 6000 a minute"):
        reserve(make_limiter(), 6_001, 0)


def test_nothing_is_granted_without_a_share() -> None:
    limiter = make_limiter(share=0)
    reserve(limiter, 1, 0)
    assert limiter.grant_ready(1_000) == []
    assert limiter.seconds_until_next_grant(1_000) == float("inf")


def test_share_starts_at_restored_level_capped_at_burst() -> None:
    limiter = make_limiter()
    limiter.assign_share(0.5, {"requests": 60, "tokens": -40}, 2.0)
    assert limiter.level_of("requests", 2.0) == pytest.approx(0.5 * BURST_S)
    assert limiter.level_of("tokens", 2.0) == pytest.approx(-40)


def test_nothing_is_granted_while_paused() -> None:
    limiter = make_limiter()
    reservation = reserve(limiter, 50, 0)
    limiter.pause_grants(0.5)
    assert limiter.grant_ready(10) == []
    assert limiter.seconds_until_next_grant(10) == float("inf")
    limiter.assign_share(1.0, {"requests": 1, "tokens": 100}, 10)
    assert limiter.grant_ready(10) == [reservation]


def test_nothing_is_granted_after_the_lease_of_the_share() -> None:
    """A worker that was frozen or cut off does not know that its partitions have moved."""
    limiter = make_limiter()
    limiter.own_share_until(9)
    reservation = reserve(limiter, 50, 8)
    assert limiter.grant_ready(20) == []
    limiter.own_share_until(30)
    assert limiter.grant_ready(20) == [reservation]


def test_estimated_waits_match_the_grants() -> None:
    limiter = make_limiter(requests=6_000)
    for tokens in (50, 100, 1_000, 10):
        reserve(limiter, tokens, 0)
    estimated, granted_at, now = limiter.estimate_waits(0), [], 0.0
    while (wait := limiter.seconds_until_next_grant(now)) is not None:
        now += wait + 1e-9
        granted_at += [now for _ in limiter.grant_ready(now)]
    assert estimated == pytest.approx(granted_at, abs=1e-6)


def test_cool_down_stops_all_grants_until_it_ends() -> None:
    limiter = make_limiter()
    reservation = reserve(limiter, 1, 0)
    for number in range(2):
        limiter.record_throttled(UUID(int=number), 0, 0, requested_delay=10)
    assert limiter.grant_ready(9.9) == []
    assert limiter.seconds_until_next_grant(5) == pytest.approx(5)
    assert limiter.cool_down_left(5) == pytest.approx(5)
    assert limiter.grant_ready(10) == [reservation]


def test_estimate_for_a_new_call_is_the_time_of_its_grant() -> None:
    limiter = make_limiter()
    for need in (100, 50, 70):
        reserve(limiter, need, 0)
    limiter.grant_ready(0)
    estimated = limiter.estimate_wait({"requests": 1, "tokens": 60}, 0)
    reserve(limiter, 60, 0)
    assert estimated == pytest.approx(limiter.estimate_waits(0)[-1])


def test_throttled_worker_without_a_share_still_reports_its_pace() -> None:
    limiter = make_limiter()
    for number in range(2):
        limiter.record_throttled(UUID(int=number), 0, 0, requested_delay=10)
    limiter.assign_share(0, {}, 1)
    assert 0 < limiter.pace_of("requests") < 1
    assert limiter.estimate_waits(1) == []


def test_cancelled_reservation_is_not_charged() -> None:
    limiter = make_limiter()
    first, second = reserve(limiter, 100, 0), reserve(limiter, 50, 0)
    limiter.cancel_reservation(first)
    assert limiter.grant_ready(1.0) == [second]
    assert limiter.queued == 0


def test_usage_covers_the_last_minute() -> None:
    limiter = make_limiter()
    reserve(limiter, 100, 0)
    limiter.grant_ready(1)
    assert limiter.usage_of("tokens", 30) == 100
    assert limiter.usage_of("tokens", 62) == 0


steps = st.lists(
    st.tuples(
        st.floats(0, 3, allow_nan=False),
        st.integers(1, 300),
        st.sampled_from([0.25, 0.5, 1.0, None]),
    ),
    min_size=1,
    max_size=60,
)


@given(steps)
@settings(max_examples=300)
def test_no_window_exceeds_rate_and_burst(
    script: list[tuple[float, int, float | None]],
) -> None:
    """Granted in any window <= rate * window + burst + one call in debt."""
    limiter, now = make_limiter(requests=60_000), 0.0
    granted: list[tuple[float, float]] = []
    for pause, tokens, share in script:
        now += pause
        if share is not None:
            limiter.assign_share(
                share,
                {
                    "requests": limiter.level_of("requests", now),
                    "tokens": limiter.level_of("tokens", now),
                },
                now,
            )
        reserve(limiter, tokens, now)
        granted += [(now, reservation.needs["tokens"]) for reservation in limiter.grant_ready(now)]
    for start in range(len(granted)):
        for end in range(start, len(granted)):
            window = granted[end][0] - granted[start][0]
            spent = sum(amount for _, amount in granted[start : end + 1])
            largest = max(amount for _, amount in granted[start : end + 1])
            assert spent <= 100 * window + 100 * BURST_S + largest + 1e-6


calls = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 300), st.integers(0, 600)), min_size=1, max_size=60
)


@given(calls)
@settings(max_examples=300)
def test_excess_usage_delays_later_grants(
    script: list[tuple[float, int, int]],
) -> None:
    """Used or reserved in any window <= rate * window + burst + one call in debt."""
    limiter, now = make_limiter(requests=60_000), 0.0
    spent: list[tuple[float, float]] = []
    for pause, reserved, used in script:
        now += pause
        reservation = reserve(limiter, reserved, now)
        if (wait_s := limiter.seconds_until_next_grant(now)) is not None:
            now += wait_s + 1e-6
        assert limiter.grant_ready(now) == [reservation]
        limiter.record_usage(reservation, {"tokens": used}, now)
        spent.append((now, max(reserved, used)))
    for start in range(len(spent)):
        for end in range(start, len(spent)):
            window = spent[end][0] - spent[start][0]
            amounts = [amount for _, amount in spent[start : end + 1]]
            assert sum(amounts) <= 100 * window + 100 * BURST_S + max(amounts) + 1e-6


def test_implausible_usage_delays_grants_by_a_minute_at_most() -> None:
    limiter = make_limiter(requests=6_000)
    reservation = reserve(limiter, 100, 0)
    limiter.grant_ready(1.0)
    limiter.record_usage(reservation, {"tokens": 1e12}, 1.0)
    reserve(limiter, 100, 1.0)
    assert limiter.seconds_until_next_grant(1.0) == pytest.approx(60)


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=40))
def test_reservations_are_granted_in_order(sizes: list[int]) -> None:
    limiter, now = make_limiter(requests=60_000), 0.0
    requested = [reserve(limiter, size, 0) for size in sizes]
    granted: list[Reservation] = []
    for _ in range(10 * len(sizes)):
        wait = limiter.seconds_until_next_grant(now)
        if wait is None:
            break
        now += wait + 1e-6
        granted += limiter.grant_ready(now)
    assert granted == requested
