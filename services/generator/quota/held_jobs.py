"""Tracks the jobs that a worker holds: which of them still wait for permits, and what they need."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from uuid import UUID

from services.generator.quota.job_needs import JobNeeds

_MEAN_OVER = 10
_USUAL_LEAD_S = 5.0
"""The lead time before the first measurement."""


class HeldJobs:
    """The jobs of one worker, by the permits that they have had.

    `on_change` is called when a job begins, so that a report makes room for the next one. `clock`
    is monotonic, in seconds.
    """

    def __init__(self, on_change: Callable[[], None], *, clock: Callable[[], float]) -> None:
        self._on_change = on_change
        self._clock = clock
        self._unbegun: dict[UUID, float] = {}
        """Their virtual times."""
        self._image_jobs: dict[UUID, float] = {}
        """When each job that needs an image was claimed (monotonic)."""
        self._before_image: set[UUID] = set()
        self._needs = defaultdict[str, JobNeeds](JobNeeds)
        """By provider account."""
        self._total = 0
        self._measured = 0
        self.image_lead_s = _USUAL_LEAD_S
        """The mean time from a job's claim until it waits for the permit of its image."""

    def add(self, job: UUID, *, virtual_time: float, needs_image: bool) -> None:
        """Add a claimed job."""
        self._total += 1
        self._unbegun[job] = virtual_time
        self._on_change()
        if needs_image:
            self._image_jobs[job] = self._clock()
            self._before_image.add(job)

    def record_permit(self, job: UUID, account: str, needs: Mapping[str, float]) -> None:
        """Record a permit of a job. The first one begins it."""
        self._needs[account].record_call(job, needs)
        self.record_begin(job)

    def record_begin(self, job: UUID) -> None:
        """Record that a job waits for no first permit any more."""
        if job in self._unbegun:
            del self._unbegun[job]
            self._on_change()

    def record_image_wait(self, job: UUID) -> None:
        """Record that a job waits for the permit of its image from now on."""
        if (claimed_at := self._image_jobs.get(job)) is not None:
            self._measured += 1
            lead_s = self._clock() - claimed_at
            self.image_lead_s += (lead_s - self.image_lead_s) / min(self._measured, _MEAN_OVER)

    def record_image_permit(self, job: UUID) -> None:
        """Record that a job needs no permit for an image any more."""
        if job in self._before_image:
            self._before_image.remove(job)
            self._on_change()

    def remove(self, job: UUID, *, done: bool) -> None:
        """Remove a job after its attempt. `done`: its post is finished."""
        for needs in self._needs.values():
            needs.record_end(job, done=done)
        self._total -= 1
        self._unbegun.pop(job, None)
        self._image_jobs.pop(job, None)
        self._before_image.discard(job)
        self._on_change()

    def mean_needs(self, account: str) -> Mapping[str, float] | None:
        """Return what a job needs of an account; `None` before the first finished one."""
        return self._needs[account].mean_needs()

    @property
    def total(self) -> int:
        return self._total

    @property
    def unbegun(self) -> int:
        """Return how many jobs wait for their first permit."""
        return len(self._unbegun)

    @property
    def first_unbegun(self) -> float | None:
        """Return the smallest virtual time of the jobs that wait for their first permit."""
        return min(self._unbegun.values(), default=None)

    @property
    def image_jobs(self) -> int:
        """Return how many jobs needed an image when they were claimed."""
        return len(self._image_jobs)

    @property
    def before_image(self) -> int:
        """Return how many of them have no permit for it yet."""
        return len(self._before_image)
