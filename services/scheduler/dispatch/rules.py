"""Credit: how many more jobs each worker takes, and to which partition the next job goes.

A worker's credit is the slots it reports less what it will have to do: jobs that it has claimed and that are not yet
settled, and those on its partitions that nobody has claimed. So the generation topic stays short, fairness is decided
late, and no worker waits while another has a queue. Who takes a dead worker's partitions over has its slots at once:
what that one had claimed comes to it only when the leases have run out.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

NO_WORKER = "no worker"
BACKPRESSURE = "back-pressure"
"""Every slot of every worker is taken, and no provider's limit is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOffer:
    """What a worker last said of itself, and when (seconds since the epoch)."""

    worker: str
    partitions: tuple[int, ...]
    slots: int
    at: float
    limited_by: str | None = None
    """What its jobs wait for, if anything: a limit of a provider, a provider that cools down."""


class WorkerCredit:
    """The book of offers and of outstanding jobs. A worker unheard of for `silence_s` has no credit."""

    def __init__(self, *, silence_s: float) -> None:
        self._silence_s = silence_s
        self._offers: dict[str, WorkerOffer] = {}
        self._outstanding: dict[Hashable, tuple[int, str | None]] = {}
        """Each job's partition, and the worker that has claimed it."""
        self._by_partition = defaultdict[int, int](int)
        self._unclaimed = defaultdict[int, int](int)
        self._claimed = defaultdict[str, int](int)

    def hear(self, offer: WorkerOffer) -> None:
        known = self._offers.get(offer.worker)
        if known is None or offer.at >= known.at:
            self._offers[offer.worker] = offer

    def forwarded(self, job: Hashable, partition: int, *, claimed_by: str | None = None) -> None:
        self.settled(job)
        self._outstanding[job] = (partition, claimed_by)
        self._by_partition[partition] += 1
        self._count(partition, claimed_by, 1)

    def claimed(self, job: Hashable, worker: str) -> None:
        """A worker has begun with a job, whosever its partition is by now. Nothing, if it is not outstanding."""
        if (known := self._outstanding.get(job)) is not None and known[1] != worker:
            self._count(*known, -1)
            self._outstanding[job] = (known[0], worker)
            self._count(known[0], worker, 1)

    def settled(self, job: Hashable) -> None:
        if (known := self._outstanding.pop(job, None)) is not None:
            self._by_partition[known[0]] -= 1
            self._count(*known, -1)

    def _count(self, partition: int, worker: str | None, by: int) -> None:
        if worker is None:
            self._unclaimed[partition] += by
            return
        self._claimed[worker] += by
        if not self._claimed[worker]:  # names are never used again
            del self._claimed[worker]

    def forget_jobs(self) -> None:
        """Drop the book of outstanding jobs (it is about to be rebuilt); what workers said stays."""
        for book in (self._outstanding, self._by_partition, self._unclaimed, self._claimed):
            book.clear()

    def best_partition(self, now: float) -> int | None:
        """The least used partition of the worker with the most credit; None when nobody has any."""
        best, most = None, 0
        for offer in self._offers.values():
            credit = self._credit(offer, now)
            if credit > most:
                best, most = offer, credit
        if best is None:
            return None
        return min(best.partitions, key=self._by_partition.__getitem__)

    def limited_by(self, now: float) -> str | None:
        """What keeps the workers from taking more jobs; None when one of them would take one."""
        heard = [
            offer
            for offer in self._offers.values()
            if now - offer.at <= self._silence_s and offer.partitions
        ]
        if not heard:
            return NO_WORKER
        if any(self._credit(offer, now) > 0 for offer in heard):
            return None
        said = Counter(offer.limited_by for offer in heard if offer.limited_by is not None)
        return said.most_common(1)[0][0] if said else BACKPRESSURE

    def forget_silent(self, now: float, *, after_s: float = 600) -> None:
        """Drop workers that have been gone for long: names are never used again."""
        self._offers = {
            name: offer for name, offer in self._offers.items() if now - offer.at <= after_s
        }

    def _credit(self, offer: WorkerOffer, now: float) -> int:
        if now - offer.at > self._silence_s or not offer.partitions:
            return 0
        coming = sum(map(self._unclaimed.__getitem__, offer.partitions))
        return offer.slots - coming - self._claimed.get(offer.worker, 0)
