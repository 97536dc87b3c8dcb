"""When a queue's door closes and opens, and what clients are told meanwhile."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.admission.rules import ALL, AdmissionDecision, DecayingRate, AdmissionPolicy

Queues = dict[str, int]


def judge(
    gates: AdmissionPolicy, queues: Queues, *, grown: Iterable[str] | None = None, rate: float = 1.0
) -> list[AdmissionDecision]:
    return gates.decide_changes(
        queues if grown is None else grown,
        waiting=lambda store: queues.get(store, 0),
        total=sum(queues.values()),
        per_second=lambda _: rate,
    )


def test_a_door_closes_at_the_limit_and_opens_at_four_fifths() -> None:
    gates = AdmissionPolicy(per_store=10, total=1_000)
    assert judge(gates, {"a": 9, "b": 3}) == []
    assert judge(gates, {"a": 10, "b": 3}) == [AdmissionDecision(store="a", closed=True, retry_after_s=2)]
    assert judge(gates, {"a": 10}) == []
    assert [door.closed for door in judge(gates, {"a": 9})] == [True]
    assert gates.closed == {"a"}
    assert judge(gates, {"a": 8}) == [AdmissionDecision(store="a", closed=False)]
    assert gates.closed == frozenset()


def test_a_closed_door_is_looked_at_although_its_queue_did_not_grow() -> None:
    gates = AdmissionPolicy(per_store=10, total=1_000)
    judge(gates, {"a": 10})
    assert judge(gates, {}, grown=()) == [AdmissionDecision(store="a", closed=False)]


def test_the_whole_systems_door() -> None:
    gates = AdmissionPolicy(per_store=100, total=10)
    assert judge(gates, {"a": 6, "b": 6}, per_second=2) == [AdmissionDecision(store=ALL, closed=True, retry_after_s=2)]
    assert judge(gates, {"a": 5, "b": 4}, per_second=2) == [AdmissionDecision(store=ALL, closed=True, retry_after_s=1)]
    assert judge(gates, {"a": 5, "b": 3}, per_second=2) == [AdmissionDecision(store=ALL, closed=False)]


def test_a_limit_of_one() -> None:
    gates = AdmissionPolicy(per_store=1, total=1_000)
    assert [door.closed for door in judge(gates, {"a": 1})] == [True]
    assert [door.closed for door in judge(gates, {"a": 0})] == [False]


@pytest.mark.parametrize(
    ("rate", "told"),
    [(0.0, 30.0), (1_000.0, 1.0), (0.001, 300.0), (10.0, 20.0)],
    ids=["none", "fast", "slow", "usual"],
)
def test_when_to_come_back_follows_from_the_drain_within_reason(rate: float, told: float) -> None:
    gates = AdmissionPolicy(per_store=1_000, total=10_000)
    assert judge(gates, {"a": 1_000}, per_second=rate) == [
        AdmissionDecision(store="a", closed=True, retry_after_s=told)
    ]


def test_an_estimate_is_said_again_only_when_it_differs_much() -> None:
    gates = AdmissionPolicy(per_store=1_000, total=10_000)
    judge(gates, {"a": 1_000}, per_second=10)
    assert judge(gates, {"a": 950}, per_second=10) == []
    assert judge(gates, {"a": 900}, per_second=10) == [AdmissionDecision(store="a", closed=True, retry_after_s=10)]


def test_a_door_that_a_predecessor_closed_is_opened() -> None:
    gates = AdmissionPolicy(per_store=10, total=1_000)
    gates.restore_decision(AdmissionDecision(store="a", closed=True, retry_after_s=5))
    gates.restore_decision(AdmissionDecision(store=ALL, closed=True, retry_after_s=5))
    assert judge(gates, {}) == [AdmissionDecision(store="a", closed=False), AdmissionDecision(store=ALL, closed=False)]


@given(st.lists(st.integers(0, 14), max_size=40))
def test_a_door_never_swings_without_crossing_the_band(lengths: list[int]) -> None:
    """Closed from the limit on, open from four fifths down, and in between as it was."""
    gates, closed = AdmissionPolicy(per_store=10, total=1_000), False
    for length in lengths:
        said = judge(gates, {"a": length})
        closed = length >= 10 or (closed and length > 8)
        assert ("a" in gates.closed) == closed
        assert len(said) <= 1


def test_the_drain_of_a_steady_queue() -> None:
    drain = DecayingRate(over_s=30)
    for second in range(120):
        for _ in range(4):
            drain.record("a", float(second))
        drain.record("b", float(second))
    assert drain.per_second("a", 120) == pytest.approx(4, rel=0.1)
    assert drain.per_second(ALL, 120) == pytest.approx(5, rel=0.1)


def test_the_drain_of_the_first_seconds_is_not_taken_for_slow() -> None:
    drain = DecayingRate(over_s=30)
    for tenth in range(30):
        drain.record("a", tenth / 10)
    assert drain.per_second("a", 3) == pytest.approx(10, rel=0.1)


def test_the_past_fades() -> None:
    drain = DecayingRate(over_s=30)
    drain.record("a", 0)
    assert drain.per_second("a", 300) < 0.001
    drain.forget_idle(300)
    assert drain.per_second("a", 300) == 0
    assert drain.per_second("unknown", 300) == 0


def budgeted(gates: AdmissionPolicy, waiting: int, resets_at: float | None) -> list[AdmissionDecision]:
    return gates.decide_changes(
        ["a"],
        waiting=lambda _: waiting,
        total=waiting,
        per_second=lambda _: 1.0,
        stopped_until=lambda _: resets_at,
    )


def test_a_budget_without_room_closes_the_door_until_it_begins_anew_or_is_raised() -> None:
    gates = AdmissionPolicy(per_store=10, total=1_000)
    (closed,) = budgeted(gates, 0, 500.0)
    assert (closed.closed, closed.reason, closed.resets_at) == (True, "budget-exceeded", 500.0)
    assert budgeted(gates, 0, 500.0) == []
    (next_month,) = budgeted(gates, 0, 900.0)
    assert next_month.resets_at == 900.0
    assert budgeted(gates, 9, None) == [AdmissionDecision(store="a", closed=False)], (
        "below the limit, not below its four fifths"
    )


def test_a_budget_is_said_rather_than_a_full_queue_and_leaves_that_behind() -> None:
    gates = AdmissionPolicy(per_store=10, total=1_000)
    assert [door.reason for door in budgeted(gates, 10, None)] == ["queue-full"]
    assert [door.reason for door in budgeted(gates, 10, 500.0)] == ["budget-exceeded"]
    assert [door.reason for door in budgeted(gates, 10, None)] == ["queue-full"]
    assert gates.closed == {"a"}


def test_what_a_predecessor_said_of_a_budget_is_not_said_again() -> None:
    gates = AdmissionPolicy(per_store=10, total=1_000)
    gates.restore_decision(AdmissionDecision(store="a", closed=True, resets_at=500.0))
    assert budgeted(gates, 3, 500.0) == []
    assert budgeted(gates, 3, None) == [AdmissionDecision(store="a", closed=False)]
