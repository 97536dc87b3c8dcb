"""One leader session: the fair queue in memory, its truth in PostgreSQL.

Any failure ends the session. The next session restores the fair queue from PostgreSQL, so no
failure needs a rollback. A crash loses at most the last second's advances of virtual times; the
restore compensates for them.
"""

from collections.abc import Sequence

from services.scheduler.admission.admitter import RequestAdmitter, UnstorableRequests
from services.scheduler.admission.controller import AdmissionController
from services.scheduler.dispatch.dispatcher import Dispatcher
from services.scheduler.dispatch.ordered_publisher import OrderedPublisher
from services.scheduler.estimates.publisher import WaitEstimatePublisher
from services.scheduler.leadership.reporter import SchedulerReporter
from services.scheduler.settlement.settler import JobSettler
from services.scheduler.settlement.sweeper import Sweeper
from shared.domain.messages import BlogRequested, JobEvent, WorkerReport


class LeaderSession:
    """The operations of one leader session, in the order in which the consumer calls them."""

    def __init__(
        self,
        *,
        publisher: OrderedPublisher,
        admitter: RequestAdmitter,
        admission: AdmissionController,
        dispatcher: Dispatcher,
        settler: JobSettler,
        sweeper: Sweeper,
        estimates: WaitEstimatePublisher,
        reporter: SchedulerReporter,
    ) -> None:
        self._publisher = publisher
        self._admitter = admitter
        self._admission = admission
        self._dispatcher = dispatcher
        self._settler = settler
        self._sweeper = sweeper
        self._estimates = estimates
        self._reporter = reporter

    async def restore_missed_changes(self) -> None:
        """Settle jobs with missed events, and restore budgets and admission states."""
        await self._settler.settle_uncharged_jobs()
        await self._sweeper.refresh_budgets()
        await self._admission.load_admission_states()
        await self._estimates.clear_estimates()

    async def apply_worker_reports(self, reports: Sequence[WorkerReport]) -> None:
        self._sweeper.record_worker_reports(reports)
        await self._dispatcher.apply_worker_reports(reports)

    async def admit_requests(self, requests: Sequence[BlogRequested]) -> UnstorableRequests:
        return await self._admitter.admit_requests(requests)

    async def apply_job_events(self, events: Sequence[JobEvent]) -> None:
        await self._settler.apply_events(events)

    async def publish_admission_states(self) -> None:
        await self._admission.publish_admission_states()

    def start_dispatch(self) -> None:
        """Dispatch in the background. Raises the error of the previous run."""
        self._dispatcher.start_dispatch()

    async def sweep(self) -> None:
        await self._sweeper.sweep()

    async def reclaim_jobs_of_dead_workers(self) -> None:
        await self._sweeper.reclaim_jobs_of_dead_workers()

    async def refresh_changed_budgets(self) -> None:
        await self._sweeper.refresh_changed_budgets()

    async def save_counters(self) -> None:
        await self._settler.save_counters()

    async def publish_status(self) -> None:
        """Save the wait estimates and publish the scheduler report."""
        await self._estimates.update_estimates()
        await self._reporter.publish_report()

    def next_due_at(self) -> float | None:
        """Return when the next delayed job becomes due (seconds since the epoch)."""
        return self._dispatcher.next_due_at()

    async def flush_messages(self) -> None:
        """Wait until Kafka has acknowledged every message.

        Only then may the offsets be committed.
        """
        await self._dispatcher.wait_idle()
        await self._publisher.flush_batches()

    def stop_dispatch(self) -> None:
        self._dispatcher.stop_dispatch()

    async def abandon_session(self) -> None:
        """Stop and ignore the outcome. The next session reads the same records again."""
        await self._dispatcher.abandon_dispatch()
        await self._publisher.abandon_batches()
