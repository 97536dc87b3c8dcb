"""Decides how many jobs a worker holds, from its permits and the jobs that wait for them."""

from services.generator.providers.accounts.pool import ImageAccountPool, TextAccountPool
from services.generator.quota.concurrency import QUEUE_S, count_accepted_jobs, count_passing_jobs
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
            held=self._held.total,
            unbegun=self._held.unbegun,
            supplies=self._texts.permit_supplies(QUEUE_S),
        )

    def count_passing_jobs(self) -> int:
        """Return how many jobs it may hold if the next one passes all that have not begun."""
        return count_passing_jobs(
            held=self._held.total,
            unbegun=self._held.unbegun,
            supplies=self._texts.permit_supplies(QUEUE_S),
        )

    def jobs_per_s(self) -> float:
        """Return how many jobs a second the permits for texts start."""
        return sum(supply.jobs_per_s for supply in self._texts.permit_supplies(QUEUE_S))

    def count_image_jobs(self) -> int | None:
        """Return how many of them may need an image; `None`: all."""
        if self._images is None:
            return None
        return count_accepted_jobs(
            held=self._held.image_jobs,
            unbegun=self._held.before_image,
            supplies=self._images.permit_supplies(QUEUE_S),
        )
