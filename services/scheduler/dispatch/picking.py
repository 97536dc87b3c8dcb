"""Picks the next job of the fair queue together with a partition that can carry it. Pure."""

from typing import Protocol

from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.fair_queue.queue import PickedJob


class JobQueue(Protocol):
    """The part of the fair queue that picks jobs."""

    def pick_next(self, now: float, *, images: bool = True) -> PickedJob | None: ...

    def peek_next(self, now: float) -> tuple[float, bool] | None:
        """Return the permit rank of the next job and whether it needs an image."""


def pick_job(
    queue: JobQueue, credit: WorkerCreditTracker, now: float
) -> tuple[int, PickedJob] | None:
    """Pick the next job that a worker accepts, and the partition to send it to."""
    for_texts = credit.best_partition(now)
    if for_texts is None:
        return _pick_passing_job(queue, credit, now)
    for_images = credit.best_partition(now, needs_images=True)
    pick = queue.pick_next(now, images=for_images is not None)
    if pick is None:
        return None
    partition = for_images if pick.needs_images else for_texts
    if credit.has_returned(pick.job):
        partition = credit.best_partition(now, needs_images=pick.needs_images, job=pick.job)
    assert partition is not None, "the queue offers image jobs only if a partition takes them"
    return partition, pick


def _pick_passing_job(
    queue: JobQueue, credit: WorkerCreditTracker, now: float
) -> tuple[int, PickedJob] | None:
    """Pick a job whose permit comes before those of all jobs that wait at a worker."""
    following = queue.peek_next(now)
    if following is None:
        return None
    rank, needs_images = following
    partition = credit.find_passing_partition(rank, now, needs_images=needs_images)
    pick = queue.pick_next(now) if partition is not None else None
    return (partition, pick) if partition is not None and pick is not None else None
