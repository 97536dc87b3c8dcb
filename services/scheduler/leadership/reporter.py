"""Publishes the scheduler report on blog.workers about once a second."""

from services.scheduler import messages
from services.scheduler.activity import ActivityCounts
from services.scheduler.admission.controller import AdmissionController
from services.scheduler.budgets.tracker import BudgetTracker
from services.scheduler.fair_queue.fairness import FairnessMonitor
from services.scheduler.fair_queue.queue import FairQueue
from shared.kafka.publisher import Publisher


class SchedulerReporter:
    """`name` and `epoch` identify the leader session in its reports."""

    def __init__(
        self,
        *,
        name: str,
        epoch: int,
        publisher: Publisher,
        queue: FairQueue,
        admission: AdmissionController,
        budgets: BudgetTracker,
        monitor: FairnessMonitor,
        activity: ActivityCounts,
    ) -> None:
        self._name = name
        self._epoch = epoch
        self._publisher = publisher
        self._queue = queue
        self._admission = admission
        self._budgets = budgets
        self._monitor = monitor
        self._activity = activity

    async def publish_report(self) -> None:
        """Publish the report and log the counts of the session."""
        report = messages.scheduler_report(
            self._name,
            self._epoch,
            self._queue,
            closed_stores=self._admission.closed_stores,
            fairness=self._monitor.last_window,
            repaired=self._activity.repaired,
            budgets=self._budgets.states,
        )
        await self._publisher.publish(report)
        self._activity.log_counts()
