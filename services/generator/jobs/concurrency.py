"""Decides how many jobs a worker holds, from its permits and the jobs that wait for them."""

from typing import NamedTuple

from services.generator.providers.accounts.pool import ImageAccountPool, TextAccountPool
from services.generator.quota.concurrency import (
    QUEUE_S,
    count_accepted_jobs,
    count_overtaking_slots,
)
from services.generator.quota.held_jobs import HeldJobs


class TextPlaces(NamedTuple):
    """How many jobs the permits for texts allow, those in progress included."""

    accepted: int
    overtaking: int
    """If the next job overtakes all that wait for their first permit."""
    lowest_waiting_rank: float | None
    """The smallest permit rank of those."""
    jobs_per_s: float
    """The jobs that the permits start a second."""


class AdaptiveConcurrency:
    """The jobs of one worker that keep its permits in use. `images` is `None` without images."""

    def __init__(
        self, held: HeldJobs, texts: TextAccountPool, images: ImageAccountPool | None
    ) -> None:
        self._held = held
        self._texts = texts
        self._images = images

    def estimate_places(self) -> TextPlaces:
        """Estimate how many jobs the permits for texts allow now."""
        held, supplies = self._held.total, self._texts.permit_supplies(QUEUE_S)
        unqueued = self._held.without_permit - self._texts.count_queued_jobs()
        ranks = [supply.lowest_waiting_rank for supply in supplies if supply.waiting]
        return TextPlaces(
            accepted=count_accepted_jobs(held=held, unqueued=unqueued, supplies=supplies),
            overtaking=count_overtaking_slots(held=held, unqueued=unqueued, supplies=supplies),
            lowest_waiting_rank=min(ranks, default=None),
            jobs_per_s=sum(supply.jobs_per_s for supply in supplies),
        )

    def count_image_jobs(self) -> int | None:
        """Return how many of them may need an image; `None`: all."""
        if self._images is None:
            return None
        return count_accepted_jobs(
            held=self._held.image_jobs,
            unqueued=self._held.before_image,
            supplies=self._images.permit_supplies(QUEUE_S),
        )
