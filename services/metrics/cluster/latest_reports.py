"""The latest report of every worker and of the scheduler; repeats change nothing."""

from datetime import UTC, datetime, timedelta

from shared.domain.messages import SchedulerReport, WorkerReport

_GONE_SHOWN = timedelta(minutes=10)
"""How long a silent worker is still listed."""


class LatestReports:
    """Reports by sender. A worker counts as gone after `silence_s` seconds without a report."""

    def __init__(self, *, silence_s: float) -> None:
        self._silence = timedelta(seconds=silence_s)
        self._workers: dict[str, WorkerReport] = {}
        self.scheduler: SchedulerReport | None = None
        self.malformed = 0
        """Invalid events since this process started."""

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
        """Return the reports of the workers that are not silent, by name."""
        since = (now or datetime.now(UTC)) - self._silence
        return sorted(
            (report for report in self._workers.values() if report.at >= since),
            key=lambda report: report.worker,
        )

    def silent_workers(self, now: datetime | None = None) -> list[WorkerReport]:
        """Return the workers that became silent within the last ten minutes. Forgets older ones."""
        now = now or datetime.now(UTC)
        self._workers = {
            name: report for name, report in self._workers.items() if now - report.at < _GONE_SHOWN
        }
        return [report for report in self._workers.values() if now - report.at > self._silence]

    def all_reports(self) -> list[WorkerReport | SchedulerReport]:
        """Return all reports, for a peer whose partitions do not include those of the reports."""
        return [*self._workers.values(), *([self.scheduler] if self.scheduler is not None else [])]

    def queued_by_store(self) -> dict[str, int]:
        """Return the stores with the longest queues, as the scheduler reported them."""
        return (
            {queue.store: queue.queued for queue in self.scheduler.stores} if self.scheduler else {}
        )

    def scheduler_is_alive(self, now: datetime | None = None) -> bool:
        return (
            self.scheduler is not None
            and (now or datetime.now(UTC)) - self.scheduler.at <= self._silence
        )

    def count_open_circuits(self, now: datetime | None = None) -> int:
        """Return the number of limits whose circuit breaker is open in any worker."""
        states = [
            state
            for report in self.alive_workers(now)
            for state in report.limiters
            if state.circuit_open
        ]
        return len({(state.provider, state.model, state.resource) for state in states})

    def open_circuit_reasons(self, now: datetime | None = None) -> tuple[str, ...]:
        """Return the different reasons of the open circuits, each with its provider."""
        reasons = {
            f"{state.provider}: {state.open_reason}"
            for report in self.alive_workers(now)
            for state in report.limiters
            if state.circuit_open and state.open_reason
        }
        return tuple(sorted(reasons))
