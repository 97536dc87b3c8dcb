"""Feeds the failure detector of one leader session."""

import time
from collections.abc import Sequence

from services.scheduler.liveness.rules import FailureDetector
from services.scheduler.repository import SchedulerRepository
from shared.domain.messages import WorkerReport
from shared.observability.log import get_logger

log = get_logger(__name__)


class WorkerMonitor:
    def __init__(self, repository: SchedulerRepository, detector: FailureDetector) -> None:
        self._repository = repository
        self._detector = detector

    def record_reports(self, reports: Sequence[WorkerReport]) -> None:
        now = time.monotonic()
        for report in reports:
            self._detector.record_report(report.worker, now)

    async def find_dead_workers(self) -> list[str]:
        """Return the workers that have died since the last call. Call it about once a second."""
        connections = await self._repository.fetch_connections()
        now = time.monotonic()
        self._detector.record_connections(connections, now)
        dead = self._detector.take_dead_workers(now)
        for worker in dead:
            log.info("worker gone: no report and no connection", worker=worker)
        return dead
