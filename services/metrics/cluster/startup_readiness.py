"""Decides when a started process is ready to answer: unknown values must not appear as zero."""

from collections.abc import Callable
from datetime import datetime, timedelta

from services.metrics.cluster.latest_reports import LatestReports

_REPORT_TIMEOUT = timedelta(seconds=3)
"""Workers and schedulers report every second; a missing report then means that none runs."""


class StartupReadiness:
    """A process that is ready once stays ready.

    `recovered` returns whether the tables are recovered. Reports that stop later are visible in the
    answers themselves.
    """

    def __init__(self, *, reports: LatestReports, recovered: Callable[[], bool]) -> None:
        self._reports = reports
        self._recovered = recovered
        self._recovered_at: datetime | None = None
        self._ready = False

    def is_ready(self, now: datetime) -> bool:
        if not self._ready and self._recovered():
            self._recovered_at = self._recovered_at or now
            has_reports = self._reports.scheduler_is_alive(now) and bool(
                self._reports.alive_workers(now)
            )
            self._ready = has_reports or now - self._recovered_at >= _REPORT_TIMEOUT
        return self._ready
