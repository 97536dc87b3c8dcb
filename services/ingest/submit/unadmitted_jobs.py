"""Counts the accepted jobs of this process's bulk calls that the scheduler has not admitted yet.

An unadmitted job has no row, so PostgreSQL does not count it. Pure.
"""

from collections.abc import Iterable
from itertools import takewhile
from uuid import UUID

_KEPT_S = 60.0
"""A job without a row after that time gets none, or the scheduler is down.

Once the scheduler is back, admission control reports full queues.
"""


class UnadmittedBulkJobs:
    """Keeps the jobs in the order of their arrival, so the oldest expire first.

    `now` is the time of any monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._jobs: dict[UUID, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: UUID) -> bool:
        return job in self._jobs

    def add_jobs(self, store: str, jobs: Iterable[UUID], now: float) -> list[UUID]:
        """Count these jobs as waiting; return those that did not count before."""
        new = [job for job in jobs if job not in self._jobs]
        self._jobs |= dict.fromkeys(new, (store, now + _KEPT_S))
        return new

    def remove_jobs(self, jobs: Iterable[UUID]) -> None:
        """Remove jobs that have rows now, or that will never have one."""
        for job in jobs:
            self._jobs.pop(job, None)

    def jobs_of(self, store: str) -> list[UUID]:
        """Return the unadmitted jobs of a store."""
        return [job for job, (owner, _) in self._jobs.items() if owner == store]

    def remove_expired(self, now: float) -> None:
        """Remove jobs past their time; call it after removing the arrived jobs."""
        self.remove_jobs(list(takewhile(lambda job: self._jobs[job][1] <= now, self._jobs)))
