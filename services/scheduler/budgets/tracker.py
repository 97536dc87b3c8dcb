"""The stores' monthly budgets within one leader session.

The tracker reads the budgets at every sweep and after a change. In between, the fair queue keeps
them exact: only this leader settles costs, so the values read plus later reservations and
settlements equal the next values read.
"""

from collections.abc import Mapping, Sequence

from services.scheduler.budgets import rules
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import Row, SchedulerRepository
from shared.domain.budget import (
    BudgetState,
    compute_budget_state,
    has_reached_warning,
    next_month_start,
)
from shared.observability.log import get_logger

log = get_logger(__name__)


class BudgetTracker:
    """`states` holds the state of each store with a budget at the last refresh."""

    def __init__(self, repository: SchedulerRepository, queue: FairQueue) -> None:
        self.states: Mapping[str, BudgetState] = {}
        self._repository = repository
        self._queue = queue
        self._resets_at: float | None = None
        self._version: Row | None = None

    async def refresh_budgets(self) -> set[str]:
        """Read budgets and spend, and log warned and stopped stores once per month.

        Returns the stores with an admission state that may change.
        """
        in_flight = {job: store for job, (store, _) in self._queue.in_flight_jobs().items()}
        rows = await self._repository.fetch_budgets(in_flight)
        removed = self.states.keys() - {row["store"] for row in rows}
        self._queue.set_budgets(
            dict.fromkeys(removed) | {row["store"]: _reservable(row) for row in rows}
        )
        self.states = {row["store"]: self._budget_state(row) for row in rows}
        self._resets_at = next_month_start(rows[0]["now"]).timestamp() if rows else None
        await self._log_low_budgets(rows)
        return removed | self.states.keys()

    async def has_changed(self) -> bool:
        """Return whether a budget may have been set or removed since the last call."""
        before, self._version = self._version, await self._repository.fetch_budgets_version()
        return self._version != before

    def stopped_until(self, store: str) -> float | None:
        """Return when the budget of a stopped store resets (seconds since the epoch).

        A store is stopped when its budget has no room for one more job. Returns `None` for other
        stores.
        """
        headroom = self._queue.budget_headroom(store)
        if rules.fits_budget(headroom, self._queue.estimate_cost(store)):
            return None
        return self._resets_at

    def _budget_state(self, row: Row) -> BudgetState:
        store, monthly, spent = row["store"], row["monthly_nanousd"], row["spent_nanousd"]
        headroom = self._queue.budget_headroom(store)
        assert headroom is not None, "refresh_budgets() has set this store's budget"
        return compute_budget_state(
            monthly=monthly,
            warn_at=row["warn_at"],
            spent=spent,
            reserved=monthly - spent - headroom,
            estimate=self._queue.estimate_cost(store),
        )

    async def _log_low_budgets(self, rows: Sequence[Row]) -> None:
        low = [row for row in rows if _is_low(row) and row["warned_in"] != row["month"]]
        stopped = [
            row
            for row in rows
            if self.states[row["store"]] is BudgetState.STOPPED
            and row["stopped_in"] != row["month"]
        ]
        if not low and not stopped:
            return
        await self._repository.mark_budgets_logged(
            [row["store"] for row in low], [row["store"] for row in stopped]
        )
        for row in low:
            log.warning("store budget low", **_log_fields(row))
        for row in stopped:
            log.warning("store budget exhausted", **_log_fields(row))


def _reservable(row: Row) -> int:
    return rules.reservable_budget(
        monthly=row["monthly_nanousd"],
        spent=row["spent_nanousd"],
        unsettled=row["unsettled_nanousd"],
    )


def _is_low(row: Row) -> bool:
    return has_reached_warning(
        monthly=row["monthly_nanousd"], warn_at=row["warn_at"], spent=row["spent_nanousd"]
    )


def _log_fields(row: Row) -> dict[str, object]:
    return {
        "store": row["store"],
        "month": f"{row['month']:%Y-%m}",
        "spent_usd": row["spent_nanousd"] / 1e9,
        "monthly_usd": row["monthly_nanousd"] / 1e9,
    }
