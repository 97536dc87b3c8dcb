"""The order that was left, from what PostgreSQL has. O(backlog)."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from services.scheduler import messages
from services.scheduler.dispatch.rules import WorkerCredit
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import Row, SchedulerRepository
from shared.observability.log import get_logger

log = get_logger(__name__)

BEGINNING = datetime.fromtimestamp(0, UTC)
_TELL_EVERY = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredQueue:
    rows: int
    configured_until: datetime
    """The newest setting of a store that is taken over already."""


async def restore_fair_queue(order: FairQueue, credit: WorkerCredit, store: SchedulerRepository) -> RestoredQueue:
    """Fill an empty order, and the book of outstanding jobs."""
    configured_until = await _restore_counters(order, store)
    credit.forget_jobs()
    read, now = 0, time.time()
    async for row in store.backlog():
        _take_up(order, credit, row, now)
        read += 1
        if read % _TELL_EVERY == 0:
            log.info("rebuilding the order", rows=read)
    order.resume()
    return RestoredQueue(rows=read, configured_until=configured_until)


async def _restore_counters(order: FairQueue, store: SchedulerRepository) -> datetime:
    for row in await store.accounts():
        order.restore_account(row["account"], weight=row["weight"], served=row["served_nanousd"])
    newest = BEGINNING
    for row in await store.counters():
        order.restore(
            row["store"],
            account=row["account"],
            weight=row["weight"],
            served=row["served_nanousd"],
            mean_cost=row["mean_cost_nanousd"],
            settled_jobs=row["settled_jobs"],
        )
        newest = max(newest, row["configured_at"] or newest)
    return newest


def _take_up(order: FairQueue, credit: WorkerCredit, row: Row, now: float) -> None:
    if row["forwarded"]:
        order.adopt(row["id"], row["store"], row["estimate_nanousd"])
        credit.forwarded(row["id"], row["forwarded_partition"], claimed_by=row["worker"])
    else:
        order.take_up(messages.waiting_job_from_row(row), now)
