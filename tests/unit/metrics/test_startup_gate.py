"""A started process answers once it has reports, or after a short wait without any."""

from datetime import timedelta

from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.startup_gate import StartupGate
from tests.support.metrics_events import NOW, make_scheduler_report, make_worker_report


class StartingProcess:
    """A gate whose clock, tables and reports a test controls."""

    def __init__(self, *, recovered: bool = True) -> None:
        self.recovered = recovered
        self.reports = LatestReports(silence_s=10)
        self._gate = StartupGate(reports=self.reports, recovered=lambda: self.recovered)

    def is_open_after(self, seconds: float) -> bool:
        return self._gate.is_open(NOW + timedelta(seconds=seconds))


def test_gate_opens_after_reports_of_scheduler_and_worker() -> None:
    process = StartingProcess()
    assert not process.is_open_after(0)
    process.reports.add_report(make_scheduler_report(4))
    assert not process.is_open_after(0.1), "an unknown worker would be shown as none"
    process.reports.add_report(make_worker_report("w"))
    assert process.is_open_after(0.2)


def test_old_reports_do_not_open_the_gate() -> None:
    process = StartingProcess()
    process.reports.add_report(make_scheduler_report(4, at=NOW - timedelta(minutes=1)))
    process.reports.add_report(make_worker_report("w"))
    assert not process.is_open_after(0)


def test_gate_stays_closed_until_tables_are_recovered() -> None:
    process = StartingProcess(recovered=False)
    process.reports.add_report(make_scheduler_report(4))
    process.reports.add_report(make_worker_report("w"))
    assert not process.is_open_after(9)


def test_wait_for_reports_begins_with_recovered_tables() -> None:
    process = StartingProcess(recovered=False)
    assert not process.is_open_after(100)
    process.recovered = True
    assert not process.is_open_after(101)
    assert not process.is_open_after(103.9)
    assert process.is_open_after(104), "without reports, no worker is the true answer"


def test_open_gate_stays_open() -> None:
    process = StartingProcess()
    process.reports.add_report(make_scheduler_report(4))
    process.reports.add_report(make_worker_report("w"))
    assert process.is_open_after(1)
    process.recovered = False
    assert process.is_open_after(60), "the answers themselves show missing partitions and reports"
