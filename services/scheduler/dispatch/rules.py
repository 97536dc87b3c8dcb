"""Worker credit: how many more jobs each worker accepts, and the partition of the next job.

A worker's credit is its reported slots minus its outstanding jobs: the unsettled jobs it has
claimed and the unclaimed jobs on its partitions. Credit keeps `blog.generation` short, so fairness
is decided late and no worker idles while another has a queue. The new owner of a dead worker's
partitions has all its slots at once: the dead worker's claimed jobs return only after their leases
expire.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from shared.domain.reasons import WaitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOffer:
    """A worker's last report. `at` is seconds since the epoch."""

    worker: str
    partitions: tuple[int, ...]
    slots: int
    at: float
    limited_by: str | None = None
    """The cause its jobs wait for, if any: a provider's rate limit or a provider's cool-down."""


class WorkerCreditTracker:
    """Offers and outstanding jobs.

    A worker without a report for `silence_s` seconds has no credit.
    """

    def __init__(self, *, silence_s: float) -> None:
        self._silence_s = silence_s
        self._offers: dict[str, WorkerOffer] = {}
        self._outstanding: dict[Hashable, tuple[int, str | None]] = {}
        """Each job's partition, and the worker that has claimed it."""
        self._by_partition = defaultdict[int, int](int)
        self._unclaimed = defaultdict[int, int](int)
        self._claimed = defaultdict[str, int](int)

    def apply_offer(self, offer: WorkerOffer) -> None:
        """Replace the worker's offer unless a newer one is known."""
        known = self._offers.get(offer.worker)
        if known is None or offer.at >= known.at:
            self._offers[offer.worker] = offer

    def record_dispatch(
        self, job: Hashable, partition: int, *, claimed_by: str | None = None
    ) -> None:
        self.record_settlement(job)
        self._outstanding[job] = (partition, claimed_by)
        self._by_partition[partition] += 1
        self._add_outstanding(partition, claimed_by, 1)

    def record_claim(self, job: Hashable, worker: str) -> None:
        """Record the claim of an outstanding job, no matter who owns its partition now."""
        if (known := self._outstanding.get(job)) is not None and known[1] != worker:
            self._add_outstanding(*known, -1)
            self._outstanding[job] = (known[0], worker)
            self._add_outstanding(known[0], worker, 1)

    def record_settlement(self, job: Hashable) -> None:
        if (known := self._outstanding.pop(job, None)) is not None:
            self._by_partition[known[0]] -= 1
            self._add_outstanding(*known, -1)

    def _add_outstanding(self, partition: int, worker: str | None, count: int) -> None:
        if worker is None:
            self._unclaimed[partition] += count
            return
        self._claimed[worker] += count
        if not self._claimed[worker]:  # worker names never repeat
            del self._claimed[worker]

    def forget_jobs(self) -> None:
        """Drop all outstanding jobs before a restore. Offers remain."""
        for jobs in (self._outstanding, self._by_partition, self._unclaimed, self._claimed):
            jobs.clear()

    def best_partition(self, now: float) -> int | None:
        """Return the least used partition of the worker with the most credit.

        Returns `None` when no worker has credit.
        """
        best, most = None, 0
        for offer in self._offers.values():
            credit = self._compute_credit(offer, now)
            if credit > most:
                best, most = offer, credit
        if best is None:
            return None
        return min(best.partitions, key=self._by_partition.__getitem__)

    def limiting_cause(self, now: float) -> str | None:
        """Return why the workers accept no more jobs; `None` when one of them would."""
        active = [
            offer
            for offer in self._offers.values()
            if now - offer.at <= self._silence_s and offer.partitions
        ]
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

    def _compute_credit(self, offer: WorkerOffer, now: float) -> int:
        if now - offer.at > self._silence_s or not offer.partitions:
            return 0
        unclaimed = sum(map(self._unclaimed.__getitem__, offer.partitions))
        return offer.slots - unclaimed - self._claimed.get(offer.worker, 0)
