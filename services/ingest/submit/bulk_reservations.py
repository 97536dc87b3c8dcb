"""Counts the jobs of bulk calls that this process has accepted and that have no row yet. Pure."""

from collections.abc import Iterable
from itertools import takewhile
from uuid import UUID

_KEPT_S = 60.0
"""A job without a row after that time gets none, or the scheduler is down.

Once the scheduler is back, admission control reports full queues.
"""


class PendingBulkReservations:
    """Keeps reservations in the order of their creation, so the oldest expire first.

    `now` is the time of any monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._jobs: dict[UUID, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: UUID) -> bool:
        return job in self._jobs

    def reserve(self, store: str, jobs: Iterable[UUID], now: float) -> list[UUID]:
        """Reserve room for these jobs; return the jobs that had no reservation before."""
        new = [job for job in jobs if job not in self._jobs]
        self._jobs |= dict.fromkeys(new, (store, now + _KEPT_S))
        return new

    def release(self, jobs: Iterable[UUID]) -> None:
        """Release jobs that have rows now, or that will never have one."""
        for job in jobs:
            self._jobs.pop(job, None)

    def jobs_of(self, store: str) -> list[UUID]:
        """Return the reserved jobs of a store."""
        return [job for job, (owner, _) in self._jobs.items() if owner == store]

    def release_expired(self, now: float) -> None:
        """Release reservations past their time; call it after releasing the arrived jobs."""
        self.release(list(takewhile(lambda job: self._jobs[job][1] <= now, self._jobs)))
