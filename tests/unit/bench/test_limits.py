"""The arithmetic of the benchmark of limits."""

import signal

import pytest

from bench.account.audit import Audit, Decision, Limits, Window
from bench.limits import _BY_REQUESTS, Ours, chosen, window
from bench.peers.cookbook import Capacity
from shared.domain.errors import Unavailable


def test_use_is_of_the_tighter_limit_within_the_window_alone() -> None:
    calls = [Decision(100.0 + second, 1_000, granted=second != 15) for second in range(60)]
    audit = Audit(calls)
    judged = Window(since=10, until=40)
    assert audit.refused == 1
    assert audit.granted == 59
    assert audit.use(Limits(rpm=60, tpm=1_000_000), judged) == pytest.approx(29 / 30)
    assert audit.use(Limits(rpm=600, tpm=60_000), judged) == pytest.approx(29 / 30)
    assert audit.use(Limits(rpm=600, tpm=120_000), judged) == pytest.approx(29 / 60)


def test_a_decision_is_read_as_it_was_noted() -> None:
    assert Decision.read("12.500000 3400 0\n") == Decision(12.5, 3_400, granted=False)


def test_only_a_killed_workers_share_is_forgiven() -> None:
    judged = Window(since=60, until=180)
    assert Ours(limits=_BY_REQUESTS, workers=2, leaves=signal.SIGTERM).bar(judged) == 0.985
    killed = Ours(limits=_BY_REQUESTS, workers=2, leaves=signal.SIGKILL)
    assert killed.bar(judged) == pytest.approx(0.985 - 13 / 3 / 120)


def test_cases_are_chosen_by_what_their_names_hold() -> None:
    assert chosen("")("anything")
    assert chosen("rpm 600, 1 worker; LiteLLM")("ours, RPM 600, 1 worker")
    assert not chosen("rpm 600, 1 worker; LiteLLM")("ours, RPM 600, 2 workers")


def test_a_window_is_two_seconds_in_order() -> None:
    assert window("20-50") == Window(since=20, until=50)
    assert window("") == Window(since=60, until=180)
    with pytest.raises(Unavailable, match="BENCH_WINDOW"):
        window("50-20")


def test_the_cookbooks_capacity_refills_with_time_and_pauses_after_an_error() -> None:
    now = 0.0
    capacity = Capacity(Limits(rpm=60, tpm=6_000), lambda: now)
    assert sum(capacity.take(100) for _ in range(100)) == 60
    now = 2.0
    assert [capacity.take(100) for _ in range(3)] == [True, True, False]
    capacity.pause()
    now = 16.0
    assert not capacity.take(1)
    now = 17.0
    assert capacity.take(1)
