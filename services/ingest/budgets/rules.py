"""A store's monthly budget, as clients see it and operators set it. Pure; money in nano-USD, but in JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from shared.domain.budget import BudgetState, compute_budget_state, next_month_start

_NANO = 1_000_000_000
_MOST_USD = 1_000_000


class BudgetBody(BaseModel):
    """The body of PUT /api/stores/{store}/budget."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel, frozen=True)

    monthly_cost_usd: Annotated[float, Field(ge=0, le=_MOST_USD, allow_inf_nan=False)]
    warn_at: Annotated[
        float, Field(gt=0, le=1, allow_inf_nan=False, description="share of it that is a warning")
    ] = 0.8

    @property
    def monthly(self) -> int:
        return round(self.monthly_cost_usd * _NANO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How a store stands this month. `monthly` and `warn_at` are None where it has no budget."""

    store: str
    monthly: int | None
    warn_at: float | None
    spent: int
    reserved: int
    """For jobs that run, what of their estimates is not paid yet; for those that wait, their estimates."""
    estimate: int
    """What one more job will probably cost."""

    @property
    def remaining(self) -> int | None:
        return None if self.monthly is None else max(self.monthly - self.spent - self.reserved, 0)

    @property
    def room(self) -> int | None:
        """How many more jobs it takes; None: any number."""
        return None if self.remaining is None else self.remaining // self.estimate

    def whole_month_fits(self, jobs: int) -> bool:
        """Whether a month of which nothing is spent yet has room for so many jobs."""
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


def budget_of(row: Mapping[str, Any], *, default_cost: int) -> Budget:
    """`default_cost` is what a store's first job is taken to cost."""
    estimate = row["mean_cost_nanousd"] or default_cost
    return Budget(
        store=row["store"],
        monthly=row["monthly_nanousd"],
        warn_at=row["warn_at"],
        spent=row["spent_nanousd"],
        reserved=row["reserved_nanousd"] + row["waiting"] * estimate,
        estimate=estimate,
    )


def view(budget: Budget, now: datetime) -> dict[str, Any]:
    """As JSON tells it."""
    return {
        "store": budget.store,
        "month": f"{now.astimezone(UTC):%Y-%m}",
        "monthlyCostUsd": None if budget.monthly is None else budget.monthly / _NANO,
        "warnAt": budget.warn_at,
        "spentUsd": budget.spent / _NANO,
        "reservedUsd": budget.reserved / _NANO,
        "remainingUsd": None if budget.remaining is None else budget.remaining / _NANO,
        "budget_state": budget.state,
        "resetsAt": next_month_start(now),
    }
