"""Saves the stores' wait estimates to PostgreSQL, where ingest reads them for clients."""

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from services.scheduler.admission.rules import StoreRates
from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.estimates.rules import QueueState, WaitEstimate, estimate_start_times
from services.scheduler.fair_queue.fairness import FairnessMonitor
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import SchedulerRepository, WaitEstimateRow
from shared.domain.stores import ALL_STORES

_RELEVANT_PART = 0.05
"""A changed estimate is saved when it differs by more than this part of the remaining wait."""
_RELEVANT_S = 1.0
"""Smaller differences than this many seconds are not saved."""
_LONGEST_WAIT_S = 30 * 86_400


class WaitEstimatePublisher:
    """Computes and saves the wait estimates of one leader session."""

    def __init__(
        self,
        repository: SchedulerRepository,
        queue: FairQueue,
        credit: WorkerCreditTracker,
        monitor: FairnessMonitor,
        *,
        hard_cap: bool,
    ) -> None:
        self._repository = repository
        self._queue = queue
        self._credit = credit
        self._monitor = monitor
        self._hard_cap = hard_cap
        self._spend_rate = StoreRates()
        self._saved: dict[str, WaitEstimateRow] = {}

    def record_dispatch(self, cost: int, now: float) -> None:
        """Record the estimated cost (nano-USD) of a dispatched job."""
        self._spend_rate.record_amount(ALL_STORES, now, cost)

    async def clear_estimates(self) -> None:
        """Delete the estimates of the previous leader."""
        await self._repository.clear_wait_estimates()

    async def update_estimates(self) -> None:
        """Observe fairness, estimate every store's wait and save the changes.

        Called about once a second.
        """
        now = time.time()
        states = self._queue.queue_states(now)
        waiting = defaultdict[str, list[str]](list)
        for state in states:
            if state.queued and not state.images_held:
                waiting[state.account].append(state.store)
        self._monitor.observe_backlog(waiting, now)
        await self._save_changes(states, now)

    async def _save_changes(self, states: Sequence[QueueState], now: float) -> None:
        estimates = estimate_start_times(
            states,
            money_per_s=self._spend_rate.per_second(ALL_STORES, now),
            jobs_per_s=self._credit.permitted_jobs_per_s(now),
            limited_by=self._credit.limiting_cause(now),
            images_limited_by=self._credit.limiting_cause_of_images(now),
            hard_cap=self._hard_cap,
            run_s=self._monitor.mean_run_s,
        )
        rows = {
            estimate.store: _estimate_row(estimate, datetime.now(UTC)) for estimate in estimates
        }
        changed = [row for store, row in rows.items() if _has_changed(row, self._saved.get(store))]
        obsolete = [store for store in self._saved if store not in rows]
        await self._repository.save_wait_estimates(changed, obsolete)
        self._saved = {store: row for store, row in self._saved.items() if store in rows} | {
            row.store: row for row in changed
        }


def _estimate_row(estimate: WaitEstimate, now: datetime) -> WaitEstimateRow:
    return WaitEstimateRow(
        store=estimate.store,
        reason=estimate.reason,
        limited_by=estimate.limited_by,
        queued=estimate.queued,
        ahead=estimate.ahead,
        first_at=_add_seconds(now, estimate.first_in_s),
        last_at=_add_seconds(now, estimate.last_in_s),
        estimated_at=now,
        held=estimate.held,
    )


def _add_seconds(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=min(seconds, _LONGEST_WAIT_S))


def _has_changed(row: WaitEstimateRow, saved: WaitEstimateRow | None) -> bool:
    if saved is None or (row.reason, row.limited_by, row.held > 0) != (
        saved.reason,
        saved.limited_by,
        saved.held > 0,
    ):
        return True
    if row.held and (row.queued, row.held) != (saved.queued, saved.held):
        return True
    if (
        row.first_at is None
        or saved.first_at is None
        or row.last_at is None
        or saved.last_at is None
    ):
        return row.first_at != saved.first_at
    difference = max(abs(row.first_at - saved.first_at), abs(row.last_at - saved.last_at))
    return difference > max(
        timedelta(seconds=_RELEVANT_S), _RELEVANT_PART * (row.last_at - row.estimated_at)
    )
