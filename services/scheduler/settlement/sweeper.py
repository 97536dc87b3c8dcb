"""Brings the leader session in line with PostgreSQL, periodically."""

import time
from collections.abc import Sequence

from services.scheduler.admission.controller import AdmissionController
from services.scheduler.budgets.tracker import BudgetTracker
from services.scheduler.dispatch.dispatcher import Dispatcher
from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.liveness.monitor import WorkerMonitor
from services.scheduler.settlement.reclaimer import JobReclaimer
from services.scheduler.settlement.reconciler import InFlightReconciler
from services.scheduler.settlement.store_configuration import StoreConfiguration
from shared.domain.messages import WorkerReport


class Sweeper:
    """Calls the parts of a sweep in order.

    `reclaimer.py` requeues lost jobs, `reconciler.py` repairs the jobs in flight,
    `store_configuration.py` applies accounts and weights, `budgets/tracker.py` reads the budgets.
    """

    def __init__(
        self,
        *,
        reclaimer: JobReclaimer,
        reconciler: InFlightReconciler,
        configuration: StoreConfiguration,
        budgets: BudgetTracker,
        admission: AdmissionController,
        dispatcher: Dispatcher,
        credit: WorkerCreditTracker,
        workers: WorkerMonitor,
    ) -> None:
        self._reclaimer = reclaimer
        self._reconciler = reconciler
        self._configuration = configuration
        self._budgets = budgets
        self._admission = admission
        self._dispatcher = dispatcher
        self._credit = credit
        self._workers = workers

    async def sweep(self) -> None:
        """Reclaim lost jobs, reconcile the jobs in flight, and reload configuration and budgets."""
        await self._reclaimer.reclaim_jobs()
        await self._reconciler.reconcile_in_flight()
        await self._configuration.apply_changes()
        await self.refresh_budgets()
        self._credit.forget_silent_workers(time.time())
        self._admission.forget_idle_stores(time.time())

    def record_worker_reports(self, reports: Sequence[WorkerReport]) -> None:
        self._workers.record_reports(reports)

    async def reclaim_jobs_of_dead_workers(self) -> None:
        """Requeue the jobs of workers that have died, without waiting for the next sweep."""
        dead = await self._workers.find_dead_workers()
        if dead:
            # A failure here ends the session. The next one has no evidence: the lease decides.
            await self._reclaimer.reclaim_jobs_of(dead)

    async def refresh_changed_budgets(self) -> None:
        """Refresh the budgets after a change, without waiting for the next sweep."""
        if await self._budgets.has_changed():
            await self._dispatcher.wait_idle()
            await self.refresh_budgets()

    async def refresh_budgets(self) -> None:
        self._admission.mark_dirty(await self._budgets.refresh_budgets())
