"""A started process answers once it has reports, or after a short wait without any."""

from datetime import timedelta

from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.startup_readiness import StartupReadiness
from tests.support.metrics_events import NOW, make_scheduler_report, make_worker_report


class StartingProcess:
    """A process whose clock, tables and reports a test controls."""

    def __init__(self, *, recovered: bool = True) -> None:
        self.recovered = recovered
        self.reports = LatestReports(silence_s=10)
        self._readiness = StartupReadiness(reports=self.reports, recovered=lambda: self.recovered)

    def is_ready_after(self, seconds: float) -> bool:
        return self._readiness.is_ready(NOW + timedelta(seconds=seconds))


def test_process_is_ready_after_reports_of_scheduler_and_worker() -> None:
    process = StartingProcess()
    assert not process.is_ready_after(0)
    process.reports.add_report(make_scheduler_report(4))
    assert not process.is_ready_after(0.1), "an unknown worker would be shown as none"
    process.reports.add_report(make_worker_report("w"))
    assert process.is_ready_after(0.2)


def test_old_reports_do_not_make_process_ready() -> None:
    process = StartingProcess()
    process.reports.add_report(make_scheduler_report(4, at=NOW - timedelta(minutes=1)))
    process.reports.add_report(make_worker_report("w"))
    assert not process.is_ready_after(0)


def test_process_is_not_ready_until_tables_are_recovered() -> None:
    process = StartingProcess(recovered=False)
    process.reports.add_report(make_scheduler_report(4))
    process.reports.add_report(make_worker_report("w"))
    assert not process.is_ready_after(9)


def test_wait_for_reports_begins_with_recovered_tables() -> None:
    process = StartingProcess(recovered=False)
    assert not process.is_ready_after(100)
    process.recovered = True
    assert not process.is_ready_after(101)
    assert not process.is_ready_after(103.9)
    assert process.is_ready_after(104), "without reports, no worker is the true answer"


def test_ready_process_stays_ready() -> None:
    process = StartingProcess()
    process.reports.add_report(make_scheduler_report(4))
    process.reports.add_report(make_worker_report("w"))
    assert process.is_ready_after(1)
    process.recovered = False
    assert process.is_ready_after(60), "the answers themselves show missing partitions and reports"
