"""Decides the state of a store's monthly budget and validates its changes. Pure.

Money is in nano-USD; in JSON it is in dollars.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from shared.domain.budget import BudgetState, compute_budget_state, next_month_start

_NANO = 1_000_000_000
_MAX_USD = 1_000_000


class BudgetBody(BaseModel):
    """The body of PUT /api/stores/{store}/budget."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, frozen=True)

    monthly_cost_usd: Annotated[float, Field(ge=0, le=_MAX_USD, allow_inf_nan=False)]
    warn_at: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            allow_inf_nan=False,
            description="the share of the budget at which the store is warned",
        ),
    ] = 0.8

    @property
    def monthly_nanousd(self) -> int:
        return round(self.monthly_cost_usd * _NANO)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreBudget:
    """A store's budget and spend of this month.

    Without a budget, `monthly` and `warn_at` are `None`.
    """

    store: str
    monthly: int | None
    warn_at: float | None
    spent: int
    reserved: int
    """The unpaid part of running jobs' estimates, and the estimates of waiting jobs."""
    estimate: int
    """The expected cost of one more job."""

    @property
    def remaining(self) -> int | None:
        return None if self.monthly is None else max(self.monthly - self.spent - self.reserved, 0)

    @property
    def room(self) -> int | None:
        """The number of further jobs that fit; `None` means unlimited."""
        return None if self.remaining is None else self.remaining // self.estimate

    def fits_full_budget(self, jobs: int) -> bool:
        """Return whether so many jobs fit the budget of a month without any spend."""
        return self.monthly is None or jobs * self.estimate <= self.monthly

    @property
    def state(self) -> BudgetState:
        if self.monthly is None or self.warn_at is None:
            return BudgetState.OK
        return compute_budget_state(
            monthly=self.monthly,
            warn_at=self.warn_at,
            spent=self.spent,
            reserved=self.reserved,
            estimate=self.estimate,
        )


def budget_from_row(row: Mapping[str, Any], *, default_cost: int) -> StoreBudget:
    """Build the budget; `default_cost` is the expected cost while the store has no finished job."""
    estimate = row["mean_cost_nanousd"] or default_cost
    return StoreBudget(
        store=row["store"],
        monthly=row["monthly_nanousd"],
        warn_at=row["warn_at"],
        spent=row["spent_nanousd"],
        reserved=row["reserved_nanousd"] + row["waiting"] * estimate,
        estimate=estimate,
    )


def budget_view(budget: StoreBudget, now: datetime) -> dict[str, Any]:
    """Return the budget as JSON shows it."""
    return {
        "store": budget.store,
        "month": f"{now.astimezone(UTC):%Y-%m}",
        "monthlyCostUsd": None if budget.monthly is None else budget.monthly / _NANO,
        "warnAt": budget.warn_at,
        "spentUsd": budget.spent / _NANO,
        "reservedUsd": budget.reserved / _NANO,
        "remainingUsd": None if budget.remaining is None else budget.remaining / _NANO,
        "state": budget.state,
        "resetsAt": next_month_start(now),
    }
