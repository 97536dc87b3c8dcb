"""Why and until when each store waits, for clients to read: kept in PostgreSQL as far as it is news."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from services.scheduler.admission.rules import ALL, DecayingRate
from services.scheduler.estimates.rules import WaitEstimate, QueueState, estimate_start_times
from services.scheduler.repository import WaitEstimateRow, SchedulerRepository

_WORTH_SAYING = 0.2
"""A new estimate is said when it differs by this part of what is left to wait."""
_AT_LEAST_S = 2.0


class WaitEstimatePublisher:
    """One leader's. `left` is called with what every forwarded job will probably cost."""

    def __init__(self, store: SchedulerRepository, *, hard_cap: bool) -> None:
        self._store = store
        self._hard_cap = hard_cap
        self._spending = DecayingRate()
        self._said: dict[str, WaitEstimateRow] = {}

    def left(self, money: int, now: float) -> None:
        self._spending.left(ALL, now, money)

    async def begin(self, epoch: int) -> None:
        """What a predecessor said is no longer true."""
        await self._store.clear_outlooks(epoch)

    async def say(
        self, standings: Sequence[QueueState], limited_by: str | None, run_s: float | None, epoch: int
    ) -> None:
        """Save what has changed since it was said last."""
        rate = self._spending.rate(ALL, time.time())
        found = estimate_start_times(
            standings, money_per_s=rate, limited_by=limited_by, hard_cap=self._hard_cap, run_s=run_s
        )
        rows = {outlook.store: _row(outlook, datetime.now(UTC)) for outlook in found}
        news = [row for store, row in rows.items() if _is_news(row, self._said.get(store))]
        over = [store for store in self._said if store not in rows]
        await self._store.save_outlooks(news, over, epoch)
        self._said = {store: row for store, row in self._said.items() if store in rows} | {
            row.store: row for row in news
        }


def _row(outlook: WaitEstimate, now: datetime) -> WaitEstimateRow:
    return WaitEstimateRow(
        store=outlook.store,
        reason=outlook.reason,
        limited_by=outlook.limited_by,
        queued=outlook.queued,
        ahead=outlook.ahead,
        first_at=_after(now, outlook.first_in_s),
        last_at=_after(now, outlook.last_in_s),
        said_at=now,
        held=outlook.held,
    )


def _after(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now + timedelta(seconds=min(seconds, 30 * 86_400))


def _is_news(row: WaitEstimateRow, said: WaitEstimateRow | None) -> bool:
    if said is None or (row.reason, row.limited_by, row.held > 0) != (
        said.reason,
        said.limited_by,
        said.held > 0,
    ):
        return True
    if row.held and (row.queued, row.held) != (said.queued, said.held):
        return True  # whom the budget holds, and whom it does not
    if row.first_at is None or said.first_at is None or row.last_at is None or said.last_at is None:
        return row.first_at != said.first_at
    moved = max(abs(row.first_at - said.first_at), abs(row.last_at - said.last_at))
    return moved > max(timedelta(seconds=_AT_LEAST_S), _WORTH_SAYING * (row.last_at - row.said_at))
