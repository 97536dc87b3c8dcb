"""Months and states of a budget."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.budget import BudgetState, compute_budget_state, next_month_start

MIDNIGHT = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "next_month"),
    [
        (datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), MIDNIGHT),
        (MIDNIGHT, datetime(2027, 2, 1, tzinfo=UTC)),
        (datetime(2028, 2, 29, 12, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
        (
            datetime(2027, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))),
            MIDNIGHT,
        ),  # the year has begun there
    ],
)
def test_months_are_months_of_utc(now: datetime, next_month: datetime) -> None:
    assert next_month_start(now) == next_month


@given(st.integers(0, 10**10))
def test_next_month_starts_within_31_days(seconds: int) -> None:
    now = datetime.fromtimestamp(seconds, UTC)
    assert timedelta(0) < next_month_start(now) - now <= timedelta(days=31)


@pytest.mark.parametrize(
    ("spent", "reserved", "expected"),
    [
        (0, 0, BudgetState.OK),
        (79, 0, BudgetState.OK),
        (80, 0, BudgetState.WARNING),
        (80, 10, BudgetState.WARNING),
        (80, 11, BudgetState.STOPPED),
        (0, 91, BudgetState.STOPPED),
        (100, 0, BudgetState.STOPPED),
        (120, 0, BudgetState.STOPPED),
    ],
)
def test_spend_and_reservations_decide_the_state(
    spent: int, reserved: int, expected: BudgetState
) -> None:
    found = compute_budget_state(
        monthly=100, warn_at=0.8, spent=spent, reserved=reserved, estimate=10
    )
    assert found is expected
