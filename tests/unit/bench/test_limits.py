"""The arithmetic of the rate limit benchmark."""

import signal

import pytest

from bench.account.decisions import AccountLimits, DecisionLog, MeasuredWindow, RateDecision
from bench.limits import _BY_REQUESTS, WorkersCase, make_case_filter, parse_window
from bench.peers.cookbook import CookbookCapacity
from shared.domain.errors import Unavailable


def test_utilization_counts_tighter_limit_within_window() -> None:
    calls = [RateDecision(100.0 + second, 1_000, granted=second != 15) for second in range(60)]
    decisions = DecisionLog(calls)
    measured = MeasuredWindow(since=10, until=40)
    assert decisions.refused == 1
    assert decisions.granted == 59
    assert decisions.utilization(AccountLimits(rpm=60, tpm=1_000_000), measured) == pytest.approx(
        29 / 30
    )
    assert decisions.utilization(AccountLimits(rpm=600, tpm=60_000), measured) == pytest.approx(
        29 / 30
    )
    assert decisions.utilization(AccountLimits(rpm=600, tpm=120_000), measured) == pytest.approx(
        29 / 60
    )


def test_recorded_decision_is_parsed() -> None:
    assert RateDecision.parse("12.500000 3400 0\n") == RateDecision(12.5, 3_400, granted=False)


def test_required_utilization_excludes_share_of_killed_worker() -> None:
    measured = MeasuredWindow(since=60, until=180)
    assert WorkersCase(limits=_BY_REQUESTS, workers=2, leaves=signal.SIGTERM).bar(measured) == 0.985
    killed = WorkersCase(limits=_BY_REQUESTS, workers=2, leaves=signal.SIGKILL)
    assert killed.bar(measured) == pytest.approx(0.985 - 13 / 3 / 120)


def test_cases_are_chosen_by_part_of_name() -> None:
    assert make_case_filter("")("anything")
    assert make_case_filter("rpm 600, 1 worker; LiteLLM")("ours, RPM 600, 1 worker")
    assert not make_case_filter("rpm 600, 1 worker; LiteLLM")("ours, RPM 600, 2 workers")


def test_window_is_two_seconds_in_order() -> None:
    assert parse_window("20-50") == MeasuredWindow(since=20, until=50)
    assert parse_window("") == MeasuredWindow(since=60, until=180)
    with pytest.raises(Unavailable, match="BENCH_WINDOW"):
        parse_window("50-20")


def test_cookbook_capacity_refills_and_pauses_after_error() -> None:
    now = 0.0
    capacity = CookbookCapacity(AccountLimits(rpm=60, tpm=6_000), lambda: now)
    assert sum(capacity.take(100) for _ in range(100)) == 60
    now = 2.0
    assert [capacity.take(100) for _ in range(3)] == [True, True, False]
    capacity.pause()
    now = 16.0
    assert not capacity.take(1)
    now = 17.0
    assert capacity.take(1)
