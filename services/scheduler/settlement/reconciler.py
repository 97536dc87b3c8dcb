"""Compares the jobs in flight in memory with PostgreSQL and repairs lasting differences."""

from uuid import UUID

from services.scheduler.activity import ActivityCounts
from services.scheduler.dispatch.dispatcher import Dispatcher
from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import SchedulerRepository
from services.scheduler.settlement.settler import JobSettler
from shared.observability.log import get_logger

log = get_logger(__name__)


class InFlightReconciler:
    def __init__(
        self,
        *,
        repository: SchedulerRepository,
        queue: FairQueue,
        credit: WorkerCreditTracker,
        dispatcher: Dispatcher,
        settler: JobSettler,
        activity: ActivityCounts,
    ) -> None:
        self._repository = repository
        self._queue = queue
        self._credit = credit
        self._dispatcher = dispatcher
        self._settler = settler
        self._activity = activity
        self._suspects: frozenset[UUID] = frozenset()

    async def reconcile_in_flight(self) -> None:
        """Repair jobs that differ in two consecutive comparisons.

        A job that differs once may have an event on its way.
        """
        saved, known = await self._repository.fetch_in_flight(), self._queue.in_flight_jobs()
        self._settler.record_claims((job, row["worker"]) for job, row in saved.items())
        differing = frozenset(job for job in saved.keys() ^ known.keys() if isinstance(job, UUID))
        lasting = differing & self._suspects
        self._suspects = differing
        if not lasting:
            return
        log.error("jobs in flight differ from PostgreSQL, repaired", jobs=len(lasting))
        self._activity.count_repaired(len(lasting))
        for job in lasting & saved.keys():
            row = saved[job]
            self._queue.restore_in_flight(job, row["store"], row["estimate_nanousd"])
            self._credit.record_dispatch(
                job,
                row["forwarded_partition"],
                claimed_by=row["worker"],
                needs_images=row["needs_images"],
            )
        await self._settler.settle_jobs([job for job in lasting if job in known])
        for job in lasting & self._queue.in_flight_jobs().keys() - saved.keys():
            self._dispatcher.release_job(job, known[job][0])  # the row was deleted
