"""Worker credit: how many more jobs each worker accepts, and the partition of the next job.

A worker's credit is its reported slots minus its outstanding jobs: the unsettled jobs it has
claimed and the unclaimed jobs on its partitions. Credit keeps `blog.generation` short, so fairness
is decided late and no worker idles while another has a queue. The new owner of a dead worker's
partitions has all its slots at once: the dead worker's claimed jobs return only after their leases
expire.

A job goes only to a partition that carries quota for what the job needs: texts, and images if it
still needs one. While a worker's image accounts have open circuit breakers or long cool-downs, it
gets no job that needs an image, except for one when a probe is due. Otherwise it gets at most as
many as its quota of images starts in a minute, so that jobs that wait for an image leave slots to
the others.

The scheduler does not know which account a pinned store or a named model uses. A worker without
quota of that account returns the job. So a job that returned goes to a worker that has not returned
it, as long as one of those has credit. Once all workers have returned it, any of them may get it
again: quota moves with its partitions.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import NamedTuple

from shared.domain.reasons import WaitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOffer:
    """A worker's last report. `at` is seconds since the epoch."""

    worker: str
    partitions: tuple[int, ...]
    slots: int
    at: float
    text_partitions: tuple[int, ...] | None = None
    """The partitions that carry quota for texts; `None`: all."""
    image_partitions: tuple[int, ...] | None = None
    """The partitions that carry quota for texts and images; `None`: all."""
    most_image_jobs: int | None = None
    """The most outstanding jobs that need an image; `None`: as many as slots."""
    limited_by: str | None = None
    """The cause its jobs wait for, if any: a provider's rate limit or a provider's cool-down."""
    images_stopped_by: str | None = None
    """Why no image account serves; `None` while one does."""

    def usable_partitions(self, *, needs_images: bool) -> tuple[int, ...]:
        """Return the partitions to which a job with these needs may go."""
        carrying = self.image_partitions if needs_images else self.text_partitions
        return self.partitions if carrying is None else carrying


class _Outstanding(NamedTuple):
    partition: int
    worker: str | None
    """The worker that has claimed the job."""
    needs_images: bool


class WorkerCreditTracker:
    """Offers and outstanding jobs.

    A worker without a report for `silence_s` seconds has no credit.
    """

    def __init__(self, *, silence_s: float) -> None:
        self._silence_s = silence_s
        self._offers: dict[str, WorkerOffer] = {}
        self._outstanding: dict[Hashable, _Outstanding] = {}
        self._by_partition = defaultdict[int, int](int)
        self._unclaimed = Counter[tuple[int, bool]]()
        """The unclaimed jobs by partition, and whether they need an image."""
        self._claimed = Counter[tuple[str, bool]]()
        """The claimed jobs by worker, and whether they need an image."""
        self._returned: dict[Hashable, set[str]] = {}
        """The workers that have returned a job that has not ended."""

    def apply_offer(self, offer: WorkerOffer) -> None:
        """Replace the worker's offer unless a newer one is known."""
        known = self._offers.get(offer.worker)
        if known is None or offer.at >= known.at:
            self._offers[offer.worker] = offer

    def record_dispatch(
        self,
        job: Hashable,
        partition: int,
        *,
        claimed_by: str | None = None,
        needs_images: bool = True,
    ) -> None:
        self._remove_outstanding(job)
        dispatched = _Outstanding(partition, claimed_by, needs_images)
        self._outstanding[job] = dispatched
        self._by_partition[partition] += 1
        self._add_outstanding(dispatched, 1)

    def record_claim(self, job: Hashable, worker: str) -> None:
        """Record the claim of an outstanding job, no matter who owns its partition now."""
        if (known := self._outstanding.get(job)) is not None and known.worker != worker:
            self._add_outstanding(known, -1)
            self._outstanding[job] = claimed = known._replace(worker=worker)
            self._add_outstanding(claimed, 1)

    def record_return(self, job: Hashable) -> None:
        """Settle a job that waits again. Its next worker is another one, if possible."""
        known = self._outstanding.get(job)
        self._remove_outstanding(job)
        if known is not None and known.worker is not None:
            self._returned.setdefault(job, set()).add(known.worker)

    def has_returned(self, job: Hashable) -> bool:
        """Return whether a worker has returned the job."""
        return job in self._returned

    def record_settlement(self, job: Hashable) -> None:
        """Settle a job that ended, or that waits again for a reason of the scheduler."""
        self._remove_outstanding(job)
        self._returned.pop(job, None)

    def _remove_outstanding(self, job: Hashable) -> None:
        if (known := self._outstanding.pop(job, None)) is not None:
            self._by_partition[known.partition] -= 1
            self._add_outstanding(known, -1)

    def _add_outstanding(self, job: _Outstanding, count: int) -> None:
        if job.worker is None:
            self._unclaimed[job.partition, job.needs_images] += count
            return
        claimed = (job.worker, job.needs_images)
        self._claimed[claimed] += count
        if not self._claimed[claimed]:  # worker names never repeat
            del self._claimed[claimed]

    def forget_jobs(self) -> None:
        """Drop all outstanding jobs before a restore. Offers remain."""
        self._outstanding.clear()
        self._by_partition.clear()
        self._unclaimed.clear()
        self._claimed.clear()
        self._returned.clear()

    def best_partition(
        self, now: float, *, needs_images: bool = False, job: Hashable = None
    ) -> int | None:
        """Return the least used partition of the worker with the most credit for such a job.

        Prefers workers that have not returned `job`. Returns `None` when no worker has credit.
        """
        avoided = self._avoided_workers(job, now, needs_images=needs_images)
        best, most = None, (False, 0)
        for offer in self._offers.values():
            credit = self._compute_credit(offer, now, needs_images=needs_images)
            rank = (offer.worker not in avoided, credit)
            if credit > 0 and rank > most:
                best, most = offer, rank
        if best is None:
            return None
        usable = best.usable_partitions(needs_images=needs_images)
        return min(usable, key=self._by_partition.__getitem__)

    def _avoided_workers(self, job: Hashable, now: float, *, needs_images: bool) -> Collection[str]:
        """Return the workers that have returned the job; none once all have returned it."""
        returned = self._returned.get(job)
        if not returned:
            return ()
        if all(
            offer.worker in returned
            for offer in self._active_offers(now)
            if offer.usable_partitions(needs_images=needs_images)
        ):
            returned.clear()
        return returned

    def find_image_outage(self, now: float) -> str | None:
        """Return why no worker accepts a job that needs an image, while they accept others.

        Slots that are taken do not count: they become free.
        """
        active = self._active_offers(now)
        if not active or any(
            offer.usable_partitions(needs_images=True) and offer.images_stopped_by is None
            for offer in active
        ):
            return None
        causes = Counter(offer.images_stopped_by for offer in active if offer.images_stopped_by)
        return causes.most_common(1)[0][0] if causes else WaitReason.UNAVAILABLE

    def limiting_cause_of_images(self, now: float) -> str | None:
        """Return why the workers accept no more jobs that need an image."""
        cause = self.find_image_outage(now) or self.limiting_cause(now)
        if cause is None and self.best_partition(now, needs_images=True) is None:
            return WaitReason.IMAGES
        return cause

    def limiting_cause(self, now: float) -> str | None:
        """Return why the workers accept no more jobs; `None` when one of them would."""
        active = self._active_offers(now)
        if not active:
            return WaitReason.NO_WORKER
        if any(self._compute_credit(offer, now) > 0 for offer in active):
            return None
        causes = Counter(offer.limited_by for offer in active if offer.limited_by is not None)
        return causes.most_common(1)[0][0] if causes else WaitReason.NO_FREE_SLOT

    def forget_silent_workers(self, now: float, *, after_s: float = 600) -> None:
        """Drop workers without a report for `after_s` seconds: worker names never repeat."""
        self._offers = {
            name: offer for name, offer in self._offers.items() if now - offer.at <= after_s
        }

    def _active_offers(self, now: float) -> list[WorkerOffer]:
        """Return the recent offers of workers with quota for texts, which every job needs."""
        return [
            offer
            for offer in self._offers.values()
            if now - offer.at <= self._silence_s and offer.usable_partitions(needs_images=False)
        ]

    def _compute_credit(self, offer: WorkerOffer, now: float, *, needs_images: bool = False) -> int:
        usable = offer.usable_partitions(needs_images=needs_images)
        if now - offer.at > self._silence_s or not usable:
            return 0
        image_jobs = self._count_outstanding(offer, needs_images=True)
        credit = offer.slots - image_jobs - self._count_outstanding(offer, needs_images=False)
        if needs_images and offer.most_image_jobs is not None:
            return min(credit, offer.most_image_jobs - image_jobs)
        return credit

    def _count_outstanding(self, offer: WorkerOffer, *, needs_images: bool) -> int:
        unclaimed = sum(self._unclaimed[partition, needs_images] for partition in offer.partitions)
        return unclaimed + self._claimed[offer.worker, needs_images]
