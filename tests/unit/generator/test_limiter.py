"""The limiter: nothing beyond the rate and a burst, first in first out, no starvation, shares that move."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generator.quota.rules import RateLimiter, Reservation

BURST_S = 2.0


def limiter(requests: float = 60, tokens: float = 6_000, share: float = 1.0) -> RateLimiter:
    """One request and 100 tokens a second."""
    made = RateLimiter({"requests": requests, "tokens": tokens}, burst_s=BURST_S, now=0)
    made.assign_share(share, {}, 0)
    return made


def ask(made: RateLimiter, tokens: float, now: float) -> Reservation:
    return made.reserve({"requests": 1, "tokens": tokens}, now)


def test_it_starts_empty_and_fills_at_the_rate() -> None:
    made = limiter()
    ticket = ask(made, 50, 0)
    assert made.grant_ready(0) == []
    assert made.seconds_until_next_grant(0) == pytest.approx(1.0)
    assert made.grant_ready(1.0) == [ticket]


def test_all_needs_are_met_together() -> None:
    made = limiter(requests=6_000)
    ticket = ask(made, 150, 0)
    assert made.grant_ready(1.0) == []
    assert made.grant_ready(1.5) == [ticket]


def test_a_small_call_does_not_pass_a_large_one() -> None:
    made = limiter(requests=6_000)
    large, small = ask(made, 200, 0), ask(made, 1, 0)
    assert made.grant_ready(1.9) == []
    assert made.grant_ready(2.0) == [large]
    assert made.grant_ready(2.1) == [small]


def test_a_call_over_the_burst_goes_when_full_and_leaves_a_debt() -> None:
    made = limiter(requests=6_000)
    large = ask(made, 1_000, 0)
    assert made.grant_ready(2.0) == [large]
    assert made.level("tokens", 2.0) == pytest.approx(-800)
    ask(made, 1, 2.0)
    assert made.seconds_until_next_grant(2.0) == pytest.approx(8.01)


def test_a_call_over_the_account_is_refused() -> None:
    with pytest.raises(ValueError, match=r"6001 tokens is over the limit of 6000 a minute"):
        ask(limiter(), 6_001, 0)


def test_without_a_share_nothing_goes() -> None:
    made = limiter(share=0)
    ask(made, 1, 0)
    assert made.grant_ready(1_000) == []
    assert made.seconds_until_next_grant(1_000) == float("inf")


def test_a_share_begins_with_what_its_last_owners_left_but_never_with_more_than_a_burst() -> None:
    made = limiter()
    made.assign_share(0.5, {"requests": 60, "tokens": -40}, 2.0)
    assert made.level("requests", 2.0) == pytest.approx(0.5 * BURST_S)
    assert made.level("tokens", 2.0) == pytest.approx(-40)


def test_while_a_rebalance_goes_on_nothing_goes() -> None:
    made = limiter()
    ticket = ask(made, 50, 0)
    made.pause(0.5)
    assert made.grant_ready(10) == []
    assert made.seconds_until_next_grant(10) == float("inf")
    made.assign_share(1.0, {"requests": 1, "tokens": 100}, 10)
    assert made.grant_ready(10) == [ticket]


def test_a_share_that_was_lent_is_not_spent_any_longer() -> None:
    """Who was frozen, or cut off, does not know that others own its partitions by now."""
    made = limiter()
    made.lease_until(9)
    ticket = ask(made, 50, 8)
    assert made.grant_ready(20) == []
    made.lease_until(30)
    assert made.grant_ready(20) == [ticket]


def test_everybody_knows_how_long_it_waits() -> None:
    made = limiter(requests=6_000)
    for tokens in (50, 100, 1_000, 10):
        ask(made, tokens, 0)
    foreseen, seen, now = made.estimate_waits(0), [], 0.0
    while (wait := made.seconds_until_next_grant(now)) is not None:
        now += wait + 1e-9
        seen += [now for _ in made.grant_ready(now)]
    assert foreseen == pytest.approx(seen, abs=1e-6)


def test_a_cool_down_stops_all_and_ends() -> None:
    made = limiter()
    ticket = ask(made, 1, 0)
    made.start_cool_down(10, 0)
    assert made.grant_ready(9.9) == []
    assert made.seconds_until_next_grant(5) == pytest.approx(5)
    assert made.cool_down_left(5) == pytest.approx(5)
    assert made.grant_ready(10) == [ticket]


def test_who_leaves_the_line_is_not_charged() -> None:
    made = limiter()
    first, second = ask(made, 100, 0), ask(made, 50, 0)
    made.cancel_reservation(first)
    assert made.grant_ready(1.0) == [second]
    assert made.queued == 0


def test_use_is_counted_over_the_last_minute() -> None:
    made = limiter()
    ask(made, 100, 0)
    made.grant_ready(1)
    assert made.used("tokens", 30) == 100
    assert made.used("tokens", 62) == 0


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
def test_no_window_sees_more_than_the_rate_and_a_burst(
    script: list[tuple[float, int, float | None]],
) -> None:
    """Granted in any window <= rate * window + burst + one call that ran into debt."""
    made, now = limiter(requests=60_000), 0.0
    granted: list[tuple[float, float]] = []
    for pause, tokens, share in script:
        now += pause
        if share is not None:
            made.assign_share(
                share,
                {"requests": made.level("requests", now), "tokens": made.level("tokens", now)},
                now,
            )
        ask(made, tokens, now)
        granted += [(now, ticket.needs["tokens"]) for ticket in made.grant_ready(now)]
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
def test_what_calls_use_beyond_what_was_reserved_is_paid_off_before_others_go(
    script: list[tuple[float, int, int]],
) -> None:
    """Used, or reserved, in any window <= rate * window + burst + one call that ran into debt."""
    made, now = limiter(requests=60_000), 0.0
    spent: list[tuple[float, float]] = []
    for pause, reserved, used in script:
        now += pause
        ticket = ask(made, reserved, now)
        if (wait_s := made.seconds_until_next_grant(now)) is not None:
            now += wait_s + 1e-6
        assert made.grant_ready(now) == [ticket]
        made.record_usage(ticket, {"tokens": used}, now)
        spent.append((now, max(reserved, used)))
    for start in range(len(spent)):
        for end in range(start, len(spent)):
            window = spent[end][0] - spent[start][0]
            amounts = [amount for _, amount in spent[start : end + 1]]
            assert sum(amounts) <= 100 * window + 100 * BURST_S + max(amounts) + 1e-6


def test_what_an_answer_says_of_its_use_stops_nobody_for_longer_than_a_minute() -> None:
    made = limiter(requests=6_000)
    ticket = ask(made, 100, 0)
    made.grant_ready(1.0)
    made.record_usage(ticket, {"tokens": 1e12}, 1.0)
    ask(made, 100, 1.0)
    assert made.seconds_until_next_grant(1.0) == pytest.approx(60)


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=40))
def test_everybody_is_served_in_the_order_in_which_they_came(sizes: list[int]) -> None:
    made, now = limiter(requests=60_000), 0.0
    asked = [ask(made, size, 0) for size in sizes]
    served: list[Reservation] = []
    for _ in range(10 * len(sizes)):
        wait = made.seconds_until_next_grant(now)
        if wait is None:
            break
        now += wait + 1e-6
        served += made.grant_ready(now)
    assert served == asked
