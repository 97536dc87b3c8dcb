"""Stores' monthly budgets, as one leader holds stores to them: read at every sweep and once one is set, and kept exact
in between by the order.

Only this leader settles bills, so what is settled at a look and what the order reserves and settles afterwards add up
to what the ledger and the rows will say at the next.
"""

from collections.abc import Mapping, Sequence

from services.scheduler.budgets import rules
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import Row, SchedulerRepository
from shared.domain.budget import BudgetState, budget_state, is_below_warning, resets_at
from shared.observability.log import get_logger

log = get_logger(__name__)


class BudgetTracker:
    """`states` is how each store with a budget stood at the last look."""

    def __init__(self, store: SchedulerRepository, order: FairQueue) -> None:
        self.states: Mapping[str, BudgetState] = {}
        self._store = store
        self._order = order
        self._resets_at: float | None = None
        self._set: Row | None = None

    async def look(self, epoch: int) -> set[str]:
        """Take over what was set and spent, and log, once a month and store, who is warned or stopped. The stores
        whose doors may move."""
        flying = {job: store for job, (store, _) in self._order.flying().items()}
        rows = await self._store.budgets(flying)
        gone = self.states.keys() - {row["store"] for row in rows}
        self._order.allow(dict.fromkeys(gone) | {row["store"]: _allowed(row) for row in rows})
        self.states = {row["store"]: self._judge(row) for row in rows}
        self._resets_at = resets_at(rows[0]["now"]).timestamp() if rows else None
        await self._tell(rows, epoch)
        return gone | self.states.keys()

    async def were_set(self) -> bool:
        """Whether somebody may have set a budget, or removed one, since this was last asked."""
        before, self._set = self._set, await self._store.budgets_set()
        return self._set != before

    def stopped_until(self, store: str) -> float | None:
        """When the budget of a store begins anew that has no room for one more job; None for all others."""
        room = self._order.room(store)
        return self._resets_at if not rules.fits_budget(room, self._order.estimate(store)) else None

    def _judge(self, row: Row) -> BudgetState:
        store, monthly, spent = row["store"], row["monthly_nanousd"], row["spent_nanousd"]
        room = self._order.room(store)
        assert room is not None, "it was just set"
        return budget_state(
            monthly=monthly,
            warn_at=row["warn_at"],
            spent=spent,
            reserved=monthly - spent - room,
            estimate=self._order.estimate(store),
        )

    async def _tell(self, rows: Sequence[Row], epoch: int) -> None:
        low = [row for row in rows if _is_low(row) and row["warned_in"] != row["month"]]
        stopped = [
            row
            for row in rows
            if self.states[row["store"]] is BudgetState.STOPPED
            and row["stopped_in"] != row["month"]
        ]
        if not low and not stopped:
            return
        await self._store.note_told(
            [row["store"] for row in low], [row["store"] for row in stopped], epoch
        )
        for row in low:
            log.warning("a store nears its budget", **_about(row))
        for row in stopped:
            log.warning("a store's budget is used up", **_about(row))


def _allowed(row: Row) -> int:
    return rules.reservable_budget(
        monthly=row["monthly_nanousd"],
        spent=row["spent_nanousd"],
        unsettled=row["unsettled_nanousd"],
    )


def _is_low(row: Row) -> bool:
    return is_below_warning(
        monthly=row["monthly_nanousd"], warn_at=row["warn_at"], spent=row["spent_nanousd"]
    )


def _about(row: Row) -> dict[str, object]:
    return {
        "store": row["store"],
        "month": f"{row['month']:%Y-%m}",
        "spent_usd": row["spent_nanousd"] / 1e9,
        "monthly_usd": row["monthly_nanousd"] / 1e9,
    }
