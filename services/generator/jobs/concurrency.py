"""Decides how many jobs a worker holds, from its permits and the jobs that wait for them."""

from services.generator.providers.accounts.pool import ImageAccountPool, TextAccountPool
from services.generator.quota.concurrency import (
    QUEUE_S,
    PermitSupply,
    count_accepted_jobs,
    count_overtaking_slots,
)
from services.generator.quota.held_jobs import HeldJobs


class AdaptiveConcurrency:
    """The jobs of one worker that keep its permits in use. `images` is `None` without images."""

    def __init__(
        self, held: HeldJobs, texts: TextAccountPool, images: ImageAccountPool | None
    ) -> None:
        self._held = held
        self._texts = texts
        self._images = images

    def count_jobs(self) -> int:
        """Return how many jobs the permits for texts allow, those in progress included."""
        return count_accepted_jobs(
            held=self._held.total, unqueued=self._count_unqueued(), supplies=self._text_supplies()
        )

    def count_overtaking_slots(self) -> int:
        """Return how many jobs it may hold if the next one overtakes all that wait."""
        return count_overtaking_slots(
            held=self._held.total, unqueued=self._count_unqueued(), supplies=self._text_supplies()
        )

    def lowest_waiting_rank(self) -> float | None:
        """Return the smallest permit rank of the jobs that wait for their first permit."""
        ranks = [one.lowest_waiting_rank for one in self._text_supplies() if one.waiting]
        return min(ranks, default=None)

    def _text_supplies(self) -> list[PermitSupply]:
        return self._texts.permit_supplies(QUEUE_S)

    def _count_unqueued(self) -> int:
        """Return how many jobs without a permit wait in no permit queue yet."""
        return self._held.without_permit - self._texts.count_queued_jobs()

    def jobs_per_s(self) -> float:
        """Return how many jobs a second the permits for texts start."""
        return sum(supply.jobs_per_s for supply in self._text_supplies())

    def count_image_jobs(self) -> int | None:
        """Return how many of them may need an image; `None`: all."""
        if self._images is None:
            return None
        return count_accepted_jobs(
            held=self._held.image_jobs,
            unqueued=self._held.before_image,
            supplies=self._images.permit_supplies(QUEUE_S),
        )
