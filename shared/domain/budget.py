"""A store's monthly budget: when it begins anew, and how it stands. Months are calendar months in UTC. Pure.

The scheduler holds stores to it, ingest shows it; money is in nano-USD.
"""

from datetime import UTC, datetime
from enum import StrEnum


class BudgetState(StrEnum):
    """How a store stands: the values are what clients, logs and metrics read."""

    OK = "ok"
    WARNING = "warning"
    """What is spent has passed the share at which it wants to be warned."""
    STOPPED = "stopped"
    """There is no room for one more job."""


def next_month_start(now: datetime) -> datetime:
    """When the next month begins: whatever was spent until then no longer counts."""
    now = now.astimezone(UTC)
    return datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)


def compute_budget_state(
    *, monthly: int, warn_at: float, spent: int, reserved: int, estimate: int
) -> BudgetState:
    """`reserved` is for jobs that run or wait, `estimate` what one more would probably cost."""
    if spent + reserved + estimate > monthly:
        return BudgetState.STOPPED
    return (
        BudgetState.WARNING
        if has_reached_warning(monthly=monthly, warn_at=warn_at, spent=spent)
        else BudgetState.OK
    )


def has_reached_warning(*, monthly: int, warn_at: float, spent: int) -> bool:
    """Whether so much is spent that the store is to be warned, stopped or not."""
    return spent >= warn_at * monthly
