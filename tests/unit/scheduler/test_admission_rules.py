"""Admission control: when intake closes and opens, and the published Retry-After."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.admission.rules import (
    AdmissionDecision,
    AdmissionPolicy,
    StoreRates,
)
from shared.domain.stores import ALL_STORES

Queues = dict[str, int]


def decide(
    policy: AdmissionPolicy,
    queues: Queues,
    *,
    changed: Iterable[str] | None = None,
    rate: float = 1.0,
) -> list[AdmissionDecision]:
    return policy.decide_changes(
        queues if changed is None else changed,
        waiting=lambda store: queues.get(store, 0),
        total=sum(queues.values()),
        rate=lambda _: rate,
    )


def closed(store: str, retry_after_s: float) -> AdmissionDecision:
    return AdmissionDecision(store=store, closed=True, retry_after_s=retry_after_s)


def opened(store: str) -> AdmissionDecision:
    return AdmissionDecision(store=store, closed=False)


def test_intake_closes_at_limit_and_opens_at_four_fifths() -> None:
    policy = AdmissionPolicy(per_store=10, total=1_000)
    assert decide(policy, {"a": 9, "b": 3}) == []
    assert decide(policy, {"a": 10, "b": 3}) == [closed("a", 2)]
    assert decide(policy, {"a": 10}) == []
    assert [decision.closed for decision in decide(policy, {"a": 9})] == [True]
    assert policy.closed == {"a"}
    assert decide(policy, {"a": 8}) == [opened("a")]
    assert policy.closed == frozenset()


def test_closed_intake_is_reconsidered_without_a_change() -> None:
    policy = AdmissionPolicy(per_store=10, total=1_000)
    decide(policy, {"a": 10})
    assert decide(policy, {}, changed=()) == [opened("a")]


def test_total_limit_closes_intake_of_all_stores() -> None:
    policy = AdmissionPolicy(per_store=100, total=10)
    assert decide(policy, {"a": 6, "b": 6}, rate=2) == [closed(ALL_STORES, 2)]
    assert decide(policy, {"a": 5, "b": 4}, rate=2) == [closed(ALL_STORES, 1)]
    assert decide(policy, {"a": 5, "b": 3}, rate=2) == [opened(ALL_STORES)]


def test_limit_of_one_job() -> None:
    policy = AdmissionPolicy(per_store=1, total=1_000)
    assert [decision.closed for decision in decide(policy, {"a": 1})] == [True]
    assert [decision.closed for decision in decide(policy, {"a": 0})] == [False]


@pytest.mark.parametrize(
    ("rate", "retry_after_s"),
    [(0.0, 30.0), (1_000.0, 1.0), (0.001, 300.0), (10.0, 20.0)],
    ids=["unknown", "fast", "slow", "usual"],
)
def test_retry_after_follows_dequeue_rate_within_bounds(rate: float, retry_after_s: float) -> None:
    policy = AdmissionPolicy(per_store=1_000, total=10_000)
    assert decide(policy, {"a": 1_000}, rate=rate) == [closed("a", retry_after_s)]


def test_retry_after_is_republished_only_when_it_differs_much() -> None:
    policy = AdmissionPolicy(per_store=1_000, total=10_000)
    decide(policy, {"a": 1_000}, rate=10)
    assert decide(policy, {"a": 950}, rate=10) == []
    assert decide(policy, {"a": 900}, rate=10) == [closed("a", 10)]


def test_intake_closed_by_previous_leader_opens() -> None:
    policy = AdmissionPolicy(per_store=10, total=1_000)
    policy.restore_decision(closed("a", 5))
    policy.restore_decision(closed(ALL_STORES, 5))
    assert decide(policy, {}) == [opened("a"), opened(ALL_STORES)]


@given(st.lists(st.integers(0, 14), max_size=40))
def test_state_changes_only_when_queue_crosses_the_band(lengths: list[int]) -> None:
    """Intake closes at the limit, opens at four fifths, and keeps its state in between."""
    policy, is_closed = AdmissionPolicy(per_store=10, total=1_000), False
    for length in lengths:
        decisions = decide(policy, {"a": length})
        is_closed = length >= 10 or (is_closed and length > 8)
        assert ("a" in policy.closed) == is_closed
        assert len(decisions) <= 1


def test_rate_of_a_steady_queue() -> None:
    rate = StoreRates(over_s=30)
    for second in range(120):
        for _ in range(4):
            rate.record_amount("a", float(second))
        rate.record_amount("b", float(second))
    assert rate.per_second("a", 120) == pytest.approx(4, rel=0.1)
    assert rate.per_second(ALL_STORES, 120) == pytest.approx(5, rel=0.1)


def test_rate_of_the_first_seconds_is_not_underestimated() -> None:
    rate = StoreRates(over_s=30)
    for tenth in range(30):
        rate.record_amount("a", tenth / 10)
    assert rate.per_second("a", 3) == pytest.approx(10, rel=0.1)


def test_rate_decays() -> None:
    rate = StoreRates(over_s=30)
    rate.record_amount("a", 0)
    assert rate.per_second("a", 300) < 0.001
    rate.forget_idle(300)
    assert rate.per_second("a", 300) == 0
    assert rate.per_second("unknown", 300) == 0


def decide_with_budget(
    policy: AdmissionPolicy, waiting: int, resets_at: float | None
) -> list[AdmissionDecision]:
    return policy.decide_changes(
        ["a"],
        waiting=lambda _: waiting,
        total=waiting,
        rate=lambda _: 1.0,
        stopped_until=lambda _: resets_at,
    )


def test_exhausted_budget_closes_intake_until_reset_or_raise() -> None:
    policy = AdmissionPolicy(per_store=10, total=1_000)
    (decision,) = decide_with_budget(policy, 0, 500.0)
    assert (decision.closed, decision.reason, decision.resets_at) == (
        True,
        "budget-exceeded",
        500.0,
    )
    assert decide_with_budget(policy, 0, 500.0) == []
    (next_month,) = decide_with_budget(policy, 0, 900.0)
    assert next_month.resets_at == 900.0
    assert decide_with_budget(policy, 9, None) == [opened("a")], (
        "after a budget stop, intake opens below the limit, not below four fifths of it"
    )


def test_budget_reason_takes_precedence_over_full_queue() -> None:
    policy = AdmissionPolicy(per_store=10, total=1_000)
    reasons = [
        [decision.reason for decision in decide_with_budget(policy, 10, resets_at)]
        for resets_at in (None, 500.0, None)
    ]
    assert reasons == [["queue-full"], ["budget-exceeded"], ["queue-full"]]
    assert policy.closed == {"a"}


def test_restored_budget_stop_is_not_republished() -> None:
    policy = AdmissionPolicy(per_store=10, total=1_000)
    policy.restore_decision(AdmissionDecision(store="a", closed=True, resets_at=500.0))
    assert decide_with_budget(policy, 3, 500.0) == []
    assert decide_with_budget(policy, 3, None) == [opened("a")]
