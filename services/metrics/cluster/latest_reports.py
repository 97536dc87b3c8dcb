"""The latest report of every worker and of the scheduler: last value wins, so repeats do no harm."""

from datetime import UTC, datetime, timedelta

from shared.domain.messages import SchedulerReport, WorkerReport


class LatestReports:
    """Who was heard, and when. `silence_s` without a report and a worker counts as gone."""

    def __init__(self, *, silence_s: float) -> None:
        self._silence = timedelta(seconds=silence_s)
        self._workers: dict[str, WorkerReport] = {}
        self.scheduler: SchedulerReport | None = None
        self.malformed = 0
        """Events that could not be understood since this process began."""

    def add_report(self, report: WorkerReport | SchedulerReport) -> None:
        if isinstance(report, WorkerReport):
            known = self._workers.get(report.worker)
            if known is None or report.at >= known.at:
                self._workers[report.worker] = report
        elif self.scheduler is None or (report.epoch, report.at) >= (
            self.scheduler.epoch,
            self.scheduler.at,
        ):
            self.scheduler = report

    def alive_workers(self, now: datetime | None = None) -> list[WorkerReport]:
        """Workers that are heard, by name."""
        since = (now or datetime.now(UTC)) - self._silence
        return sorted(
            (r for r in self._workers.values() if r.at >= since), key=lambda report: report.worker
        )

    def silent_workers(self, now: datetime | None = None) -> list[WorkerReport]:
        """Workers that fell silent within the last ten minutes; those longer gone are forgotten."""
        now = now or datetime.now(UTC)
        self._workers = {
            n: r for n, r in self._workers.items() if now - r.at < timedelta(minutes=10)
        }
        return [report for report in self._workers.values() if now - report.at > self._silence]

    def reports(self) -> list[WorkerReport | SchedulerReport]:
        """All that is known, for another process that does not read the topic."""
        return [*self._workers.values(), *([self.scheduler] if self.scheduler is not None else [])]

    def queued_by_store(self) -> dict[str, int]:
        """Stores with the longest queues, as the scheduler told."""
        return (
            {queue.store: queue.queued for queue in self.scheduler.stores} if self.scheduler else {}
        )

    def scheduler_is_alive(self, now: datetime | None = None) -> bool:
        return (
            self.scheduler is not None
            and (now or datetime.now(UTC)) - self.scheduler.at <= self._silence
        )

    def count_open_circuits(self, now: datetime | None = None) -> int:
        """Limits of providers that are not asked for now, as any worker has found out."""
        states = [
            state for report in self.alive_workers(now) for state in report.limiters if state.circuit_open
        ]
        return len({(state.provider, state.model, state.resource) for state in states})
