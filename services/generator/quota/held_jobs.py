"""Tracks the jobs that a worker holds: which of them still wait for permits, and what they need."""

from collections.abc import Callable, Mapping
from uuid import UUID

from services.generator.quota.job_needs import JobNeeds
from shared.domain.messages import Need

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
        self._without_permit: set[UUID] = set()
        """Jobs in their first attempt that wait for their first permit."""
        self._image_jobs: dict[UUID, float] = {}
        """When each job that needs an image was claimed (monotonic)."""
        self._before_image: set[UUID] = set()
        self._resumed: set[UUID] = set()
        """Jobs in a later attempt. They say nothing about whole jobs."""
        self._needs = {need: JobNeeds() for need in Need}
        self._total = 0
        self._measured = 0
        self.image_lead_s = _USUAL_LEAD_S
        """The mean time from a job's claim until it waits for the permit of its image."""

    def add(self, job: UUID, *, needs_image: bool, is_first_attempt: bool) -> None:
        """Add a claimed job."""
        self._total += 1
        self._on_change()
        (self._without_permit if is_first_attempt else self._resumed).add(job)
        if needs_image:
            self._image_jobs[job] = self._clock()
            self._before_image.add(job)

    def record_permit(self, job: UUID, need: Need, amounts: Mapping[str, float]) -> None:
        """Record a permit of a job and the amounts that it reserves. The first one begins it."""
        self._needs[need].record_call(job, amounts)
        self.record_begin(job)

    def record_begin(self, job: UUID) -> None:
        """Record that a job waits for no first permit any more."""
        if job in self._without_permit:
            self._without_permit.remove(job)
            self._on_change()

    def record_image_wait(self, job: UUID) -> None:
        """Record that a job waits for the permit of its image from now on."""
        claimed_at = self._image_jobs.get(job)
        if claimed_at is not None and job not in self._resumed:
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
        is_whole = done and job not in self._resumed
        for needs in self._needs.values():
            needs.record_end(job, done=is_whole)
        self._total -= 1
        self._without_permit.discard(job)
        self._resumed.discard(job)
        self._image_jobs.pop(job, None)
        self._before_image.discard(job)
        self._on_change()

    def mean_needs(self, need: Need) -> Mapping[str, float] | None:
        """Return what a job needs of all its accounts; `None` before the first finished one."""
        return self._needs[need].mean_needs()

    @property
    def total(self) -> int:
        return self._total

    @property
    def without_permit(self) -> int:
        """Return how many jobs wait for their first permit."""
        return len(self._without_permit)

    @property
    def image_jobs(self) -> int:
        """Return how many jobs needed an image when they were claimed."""
        return len(self._image_jobs)

    @property
    def before_image(self) -> int:
        """Return how many of them have no permit for it yet."""
        return len(self._before_image)
