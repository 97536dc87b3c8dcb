"""Picks the next job of the fair queue together with a partition that can carry it. Pure."""

from typing import Protocol

from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.fair_queue.queue import PickedJob


class PickableQueue(Protocol):
    """The part of the fair queue that picks jobs."""

    def pick_next(self, now: float, *, images: bool = True) -> PickedJob | None: ...

    def peek_next(self, now: float, *, images: bool = True) -> PickedJob | None:
        """Return the job that `pick_next` would pick."""


def pick_job(
    queue: PickableQueue, credit: WorkerCreditTracker, now: float
) -> tuple[int, PickedJob] | None:
    """Pick the next job that a worker accepts, and the partition to send it to."""
    for_texts = credit.best_partition(now)
    if for_texts is None:
        return _pick_overtaking_job(queue, credit, now)
    for_images = credit.best_partition(now, needs_images=True)
    pick = queue.pick_next(now, images=for_images is not None)
    if pick is None:
        return None
    partition = for_images if pick.needs_images else for_texts
    if credit.has_returned(pick.job):
        partition = credit.best_partition(now, needs_images=pick.needs_images, job=pick.job)
    assert partition is not None, "the queue offers image jobs only if a partition takes them"
    return partition, pick


def _pick_overtaking_job(
    queue: PickableQueue, credit: WorkerCreditTracker, now: float
) -> tuple[int, PickedJob] | None:
    """Pick a job that gets its permits before all jobs that wait at a worker.

    A job that a worker has returned waits for credit: it should go to another worker.
    """
    for images in (True, False):
        following = queue.peek_next(now, images=images)
        if following is None or credit.has_returned(following.job):
            continue
        partition = credit.find_overtaking_partition(
            following.permit_rank, now, needs_images=following.needs_images
        )
        if partition is not None and (pick := queue.pick_next(now, images=images)) is not None:
            return partition, pick
    return None
