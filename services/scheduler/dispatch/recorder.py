"""Records every dispatched job for admission control, wait estimates and fairness."""

from services.scheduler.admission.controller import AdmissionController
from services.scheduler.estimates.publisher import WaitEstimatePublisher
from services.scheduler.fair_queue.fairness import FairnessMonitor
from services.scheduler.fair_queue.queue import PickedJob


class DispatchRecorder:
    def __init__(
        self,
        admission: AdmissionController,
        estimates: WaitEstimatePublisher,
        monitor: FairnessMonitor,
    ) -> None:
        self._admission = admission
        self._estimates = estimates
        self._monitor = monitor

    def record_dispatch(self, pick: PickedJob, now: float) -> None:
        self._admission.record_dequeue(pick.store, now)
        self._estimates.record_dispatch(pick.reserved, now)
        self._monitor.record_dispatch(
            pick.store,
            pick.account,
            money_per_weight=pick.reserved / pick.account_weight,
            wait_s=max(now - pick.due_at, 0.0),
        )
