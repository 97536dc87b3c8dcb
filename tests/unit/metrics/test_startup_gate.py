"""A process that has just started tells nothing before it knows, and does not wait for what is not there."""

from datetime import timedelta

from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.startup_gate import StartupGate
from tests.unit.metrics.test_counting_rules import NOW, report, scheduler


class Start:
    """A process whose clock, tables and board a test sets."""

    def __init__(self) -> None:
        self.recovered = True
        self.board = LatestReports(silence_s=10)
        self.opening = StartupGate(reports=self.reports, recovered=lambda: self.recovered)

    def is_open_after(self, seconds: float) -> bool:
        return self.opening.is_open(NOW + timedelta(seconds=seconds))


def test_it_opens_once_the_scheduler_and_a_worker_were_heard() -> None:
    start = Start()
    assert not start.is_open_after(0)
    start.reports.add_report(scheduler(4))
    assert not start.is_open_after(0.1), "no worker would read as none"
    start.reports.add_report(report("w"))
    assert start.is_open_after(0.2)


def test_what_was_said_long_ago_is_not_heard_now() -> None:
    start = Start()
    start.reports.add_report(scheduler(4, at=NOW - timedelta(minutes=1)))
    start.reports.add_report(report("w"))
    assert not start.is_open_after(0)


def test_without_tables_it_stays_closed_and_the_wait_for_reports_begins_with_them() -> None:
    start = Start()
    start.recovered = False
    start.reports.add_report(scheduler(4))
    start.reports.add_report(report("w"))
    assert not start.is_open_after(9)
    start = Start()
    start.recovered = False
    assert not start.is_open_after(100)
    start.recovered = True
    assert not start.is_open_after(101)
    assert not start.is_open_after(103.9)
    assert start.is_open_after(104), "where nobody reports, that is what there is to tell"


def test_once_open_it_stays_open() -> None:
    start = Start()
    start.reports.add_report(scheduler(4))
    start.reports.add_report(report("w"))
    assert start.is_open_after(1)
    start.recovered = False
    assert start.is_open_after(60), "of partitions that move and reports that end, the answers tell"
