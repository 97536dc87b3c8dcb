"""Jobs that this process has promised room, on their way to PostgreSQL: rows that nobody can count yet. Pure."""

from collections.abc import Iterable
from itertools import takewhile
from uuid import UUID

_KEPT_S = 60.0
"""What has no row by then will not have one, or the scheduler is away: when it is back, its doors say what is full."""


class Underway:
    """In the order of their promises, so that those to be forgotten come first. `now` is any clock's, in seconds."""

    def __init__(self) -> None:
        self._jobs: dict[UUID, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job: UUID) -> bool:
        return job in self._jobs

    def add(self, store: str, jobs: Iterable[UUID], now: float) -> list[UUID]:
        """Keep them in mind; those that were not yet."""
        new = [job for job in jobs if job not in self._jobs]
        self._jobs |= dict.fromkeys(new, (store, now + _KEPT_S))
        return new

    def drop(self, jobs: Iterable[UUID]) -> None:
        """They have rows now, or will never have any."""
        for job in jobs:
            self._jobs.pop(job, None)

    def of(self, store: str) -> list[UUID]:
        """A store's."""
        return [job for job, (owner, _) in self._jobs.items() if owner == store]

    def forget(self, now: float) -> None:
        """Those that were promised long ago: to be called when PostgreSQL has been asked which have come."""
        self.drop(list(takewhile(lambda job: self._jobs[job][1] <= now, self._jobs)))
