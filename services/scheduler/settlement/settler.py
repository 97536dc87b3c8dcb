"""Settles jobs: replaces reservations with real costs and requeues the jobs that wait again."""

import time
from collections.abc import Iterable, Sequence
from uuid import UUID

from services.scheduler import messages
from services.scheduler.activity import ActivityCounts
from services.scheduler.admission.controller import AdmissionController
from services.scheduler.dispatch.dispatcher import Dispatcher
from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.fair_queue.accounts import CounterChange
from services.scheduler.fair_queue.fairness import FairnessMonitor
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import Row, SchedulerRepository
from shared.domain.job import ENDED, Status
from shared.domain.messages import EventKind, JobEvent

_SETTLING = {EventKind.ENDED, EventKind.RETRY}


class JobSettler:
    def __init__(
        self,
        *,
        repository: SchedulerRepository,
        queue: FairQueue,
        credit: WorkerCreditTracker,
        dispatcher: Dispatcher,
        admission: AdmissionController,
        monitor: FairnessMonitor,
        activity: ActivityCounts,
    ) -> None:
        self._repository = repository
        self._queue = queue
        self._credit = credit
        self._dispatcher = dispatcher
        self._admission = admission
        self._monitor = monitor
        self._activity = activity

    async def apply_events(self, events: Sequence[JobEvent]) -> None:
        """Record claims, and settle the jobs that ended or returned to the queue."""
        self.record_claims(
            (event.job, event.worker) for event in events if event.kind is EventKind.STARTED
        )
        await self.settle_jobs(list({event.job for event in events if event.kind in _SETTLING}))

    def record_claims(self, claims: Iterable[tuple[UUID, str | None]]) -> None:
        for job, worker in claims:
            if worker is not None:
                self._credit.record_claim(job, worker)

    async def settle_jobs(self, jobs: Sequence[UUID]) -> None:
        """Charge the jobs' real costs in PostgreSQL and in the queue.

        Settling a job again changes nothing.
        """
        if jobs:
            await self._dispatcher.wait_idle()
            await self._repository.settle_jobs(jobs, self._charge_jobs)

    async def settle_uncharged_jobs(self) -> None:
        """Settle uncharged jobs that are not in flight: no leader has applied their events."""
        await self.settle_jobs(await self._repository.fetch_uncharged_jobs())

    async def save_counters(self) -> None:
        """Save the counter changes that settlement has not saved: advances of virtual times."""
        await self._repository.save_counters(self._queue.take_counter_changes())

    def _charge_jobs(self, rows: Sequence[Row]) -> list[CounterChange]:
        now = time.time()
        for row in rows:
            self._queue.settle_job(
                row["id"], row["store"], row["spent"], ended=row["status"] in ENDED
            )
            if row["run_s"] is not None:
                self._monitor.record_run_time(row["run_s"])
            if row["status"] == Status.PENDING:
                self._credit.record_return(row["id"])
                self._queue.enqueue(messages.waiting_job_from_row(row), now)
            else:
                self._credit.record_settlement(row["id"])
                self._queue.remove_pending(row["id"])
        self._admission.mark_dirty({row["store"] for row in rows})
        self._activity.count_jobs("settled", len(rows))
        return self._queue.take_counter_changes()
