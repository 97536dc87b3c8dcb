"""The state of a store's monthly budget. Pure.

Months are calendar months in UTC; money is in nano-USD. The scheduler enforces budgets, ingest
shows them.
"""

from datetime import UTC, datetime
from enum import StrEnum


class BudgetState(StrEnum):
    """State of a budget. Clients, logs and metrics show the values."""

    OK = "ok"
    WARNING = "warning"
    """The spend has reached the share at which the store is warned."""
    STOPPED = "stopped"
    """The budget has no room for one more job."""


def next_month_start(now: datetime) -> datetime:
    """When the next month begins and every budget resets."""
    now = now.astimezone(UTC)
    return datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)


def compute_budget_state(
    *, monthly: int, warn_at: float, spent: int, reserved: int, estimate: int
) -> BudgetState:
    """Compute the state. `reserved` is for running and waiting jobs, `estimate` for one more
    job.
    """
    if spent + reserved + estimate > monthly:
        return BudgetState.STOPPED
    return (
        BudgetState.WARNING
        if has_reached_warning(monthly=monthly, warn_at=warn_at, spent=spent)
        else BudgetState.OK
    )


def has_reached_warning(*, monthly: int, warn_at: float, spent: int) -> bool:
    """Return whether the spend has reached the warning share, in any state of the budget."""
    return spent >= warn_at * monthly
