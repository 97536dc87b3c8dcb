"""When a process that has just started may be asked: what it has not heard of yet must not be told as nothing."""

from collections.abc import Callable
from datetime import datetime, timedelta

from services.metrics.cluster.latest_reports import LatestReports

_WITHIN = timedelta(seconds=3)
"""Who runs reports every second: after so many, silence says something as well."""


class StartupGate:
    """`recovered` says whether the tables are. Once open it stays so: of what falls silent later, the answers tell."""

    def __init__(self, *, reports: LatestReports, recovered: Callable[[], bool]) -> None:
        self._reports = board
        self._recovered = recovered
        self._recovered_at: datetime | None = None
        self._open = False

    def is_open(self, now: datetime) -> bool:
        if not self._open and self._recovered():
            self._recovered_at = self._recovered_at or now
            all_heard = self._reports.scheduler_is_alive(now) and bool(self._reports.alive_workers(now))
            self._open = all_heard or now - self._recovered_at >= _WITHIN
        return self._open
