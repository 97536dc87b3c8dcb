"""Counts what a leader session does, for the log and the scheduler report."""

from collections import Counter

from shared.observability.log import get_logger

log = get_logger(__name__)


class ActivityCounts:
    """`repaired` is the session's total of jobs that the reconciler has repaired."""

    def __init__(self) -> None:
        self.repaired = 0
        self._counts: Counter[str] = Counter()

    def count_jobs(self, kind: str, jobs: int) -> None:
        self._counts[kind] += jobs

    def count_repaired(self, jobs: int) -> None:
        self.repaired += jobs
        self.count_jobs("repaired", jobs)

    def log_counts(self) -> None:
        """Log the counts since the last call, if any."""
        if self._counts:
            log.info("jobs processed", **self._counts)
            self._counts.clear()
