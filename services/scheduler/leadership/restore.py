"""Restores the fair queue from PostgreSQL at a failover. O(backlog)."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from services.scheduler import messages
from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import Row, SchedulerRepository
from shared.observability.log import get_logger

log = get_logger(__name__)

_NEVER_CONFIGURED = datetime.fromtimestamp(0, UTC)
_LOG_EVERY_ROWS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredQueue:
    rows: int
    configured_until: datetime
    """The time of the newest store configuration in the queue."""


async def restore_fair_queue(
    queue: FairQueue, credit: WorkerCreditTracker, repository: SchedulerRepository
) -> RestoredQueue:
    """Fill an empty queue and the outstanding jobs of the workers."""
    configured_until = await _restore_counters(queue, repository)
    credit.forget_jobs()
    rows, now = 0, time.time()
    async for row in repository.stream_backlog():
        _restore_job(queue, credit, row, now)
        rows += 1
        if rows % _LOG_EVERY_ROWS == 0:
            log.info("restoring fair queue", rows=rows)
    queue.finish_restore()
    return RestoredQueue(rows=rows, configured_until=configured_until)


async def _restore_counters(queue: FairQueue, repository: SchedulerRepository) -> datetime:
    for row in await repository.fetch_account_counters():
        queue.restore_account(row["account"], weight=row["weight"], served=row["served_nanousd"])
    newest = _NEVER_CONFIGURED
    for row in await repository.fetch_store_counters():
        queue.restore_store(
            row["store"],
            account=row["account"],
            weight=row["weight"],
            served=row["served_nanousd"],
            mean_cost=row["mean_cost_nanousd"],
            settled_jobs=row["settled_jobs"],
        )
        newest = max(newest, row["configured_at"] or newest)
    return newest


def _restore_job(queue: FairQueue, credit: WorkerCreditTracker, row: Row, now: float) -> None:
    if row["forwarded"]:
        queue.restore_in_flight(row["id"], row["store"], row["estimate_nanousd"])
        credit.record_dispatch(
            row["id"],
            row["forwarded_partition"],
            claimed_by=row["worker"],
            needs_images=row["needs_images"],
        )
    else:
        queue.restore_pending(messages.waiting_job_from_row(row), now)
