"""Counts what a leader session does, for the log and the scheduler report."""

from collections import Counter

from shared.observability.log import get_logger

log = get_logger(__name__)


class SessionActivity:
    """`drifted` is the session's total of jobs that the reconciler has repaired."""

    def __init__(self) -> None:
        self.drifted = 0
        self._counts: Counter[str] = Counter()

    def count(self, kind: str, jobs: int) -> None:
        self._counts[kind] += jobs

    def count_drifted(self, jobs: int) -> None:
        self.drifted += jobs
        self.count("drifted", jobs)

    def log_counts(self) -> None:
        """Log the counts since the last call, if any."""
        if self._counts:
            log.info("scheduled", **self._counts)
            self._counts.clear()
