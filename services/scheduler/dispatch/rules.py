"""Worker credit: how many more jobs each worker accepts, and the partition of the next job.

A worker's credit is its reported slots minus its outstanding jobs: the unsettled jobs it has
claimed and the unclaimed jobs on its partitions. Credit keeps `blog.generation` short, so fairness
is decided late and no worker idles while another has a queue. The new owner of a dead worker's
partitions has all its slots at once: the dead worker's claimed jobs return to the queue.

A job goes only to a partition that carries quota for what the job needs: texts, and images if it
still needs one. While a worker's image accounts have open circuit breakers or long cool-downs, it
gets no job that needs an image, except for one when a probe is due. Otherwise it gets at most as
many as it accepts, so that jobs that wait for an image leave slots to the others.

The scheduler does not know which account a pinned store or a named model uses. A worker without
quota of that account returns the job. So a job that returned goes to a worker that has not returned
it, as long as one of those has credit. Once all workers have returned it, any of them may get it
again: quota moves with its partitions.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from operator import attrgetter
from typing import NamedTuple

from shared.domain.reasons import WaitReason

_PERMIT_LIMITS = (WaitReason.REQUESTS, WaitReason.TOKENS)
_MOST_ENTRIES_EACH = 8
"""Entries of the credit index for each worker. Old entries are dropped above that."""


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
    overtaking_slots: int = 0
    """The most outstanding jobs if the next one overtakes all that wait there."""
    lowest_waiting_rank: float = -inf
    """The smallest permit rank of those."""
    jobs_per_s: float | None = None
    """The jobs that its permits start a second; `None`: unknown."""

    def usable_partitions(self, *, needs_images: bool) -> tuple[int, ...]:
        """Return the partitions to which a job with these needs may go."""
        carrying = self.image_partitions if needs_images else self.text_partitions
        return self.partitions if carrying is None else carrying


class _Outstanding(NamedTuple):
    partition: int
    worker: str | None
    """The worker that has claimed the job."""
    needs_images: bool


@dataclass(slots=True, eq=False)
class _WorkerState:
    """A worker's offer and its outstanding jobs, without and with the need of an image."""

    offer: WorkerOffer
    number: int
    """The workers in the order of their first offers."""
    outstanding: list[int] = field(default_factory=lambda: [0, 0])
    listed: list[int] = field(default_factory=lambda: [0, 0])
    """The credit with which it is listed in each index; 0: it is not listed."""

    def credit(self, *, needs_images: bool) -> int:
        """Return how many more such jobs the worker accepts, if it is not silent."""
        offer = self.offer
        without, image_jobs = self.outstanding
        credit = offer.slots - image_jobs - without
        if needs_images and offer.most_image_jobs is not None:
            credit = min(credit, offer.most_image_jobs - image_jobs)
        if credit <= 0 or not offer.usable_partitions(needs_images=needs_images):
            return 0
        return credit

    def can_overtake(self, rank: float, *, needs_images: bool) -> bool:
        """Return whether the worker accepts a job of this permit rank beyond its credit.

        The job gets its permits before all jobs that wait there, which therefore take no place.
        """
        offer, (_, image_jobs) = self.offer, self.outstanding
        if rank >= offer.lowest_waiting_rank or sum(self.outstanding) >= offer.overtaking_slots:
            return False
        most = offer.most_image_jobs if needs_images else None
        has_room = most is None or image_jobs < most
        return has_room and bool(offer.usable_partitions(needs_images=needs_images))

    @property
    def free_slots(self) -> int:
        """Return the accepted jobs minus the outstanding ones; negative if there are more."""
        return self.offer.slots - sum(self.outstanding)


class _CreditIndex:
    """The workers with credit for one kind of jobs, the most credit first.

    Heap entries never move: a worker whose credit changes gets a new entry, and the old one is
    skipped when it surfaces.
    """

    def __init__(self, *, needs_images: bool) -> None:
        self._needs_images = needs_images
        self._heap: list[tuple[int, int, str]] = []

    def update(self, states: dict[str, _WorkerState], state: _WorkerState) -> None:
        """List a worker with its present credit."""
        credit = state.credit(needs_images=self._needs_images)
        if credit == state.listed[self._needs_images]:
            return
        state.listed[self._needs_images] = credit
        if credit:
            heappush(self._heap, (-credit, state.number, state.offer.worker))
            if len(self._heap) > _MOST_ENTRIES_EACH * (len(states) + 1):
                self._drop_old_entries(states)

    def first(self, states: dict[str, _WorkerState], *, heard_since: float) -> _WorkerState | None:
        """Return the worker with the most credit. Silent ones are listed again by their offer."""
        heap = self._heap
        while heap:
            negative, _, name = heap[0]
            state = states.get(name)
            if state is not None and state.listed[self._needs_images] == -negative:
                if state.offer.at >= heard_since:
                    return state
                state.listed[self._needs_images] = 0
            heappop(heap)
        return None

    def _drop_old_entries(self, states: dict[str, _WorkerState]) -> None:
        self._heap = [
            (-state.listed[self._needs_images], state.number, name)
            for name, state in states.items()
            if state.listed[self._needs_images]
        ]
        heapify(self._heap)


class WorkerCreditTracker:
    """Offers and outstanding jobs.

    A worker without a report for `silence_s` seconds has no credit. The choice of a worker is
    O(log n) in the number of workers.
    """

    def __init__(self, *, silence_s: float) -> None:
        self._silence_s = silence_s
        self._workers: dict[str, _WorkerState] = {}
        self._numbers = 0
        self._owners = defaultdict[int, list[_WorkerState]](list)
        """The workers whose offers name a partition: several during a rebalance."""
        self._indexes = (_CreditIndex(needs_images=False), _CreditIndex(needs_images=True))
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
        known = self._workers.get(offer.worker)
        if known is None:
            self._numbers += 1
            known = self._workers[offer.worker] = _WorkerState(offer, self._numbers)
            self._own_partitions(known)
        elif offer.at < known.offer.at:
            return
        elif offer.partitions != known.offer.partitions:
            self._disown_partitions(known)
            known.offer = offer
            self._own_partitions(known)
        else:
            known.offer = offer
        self._list_credit([known])

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
        self._list_credit(self._count_outstanding(dispatched, 1))

    def record_claim(self, job: Hashable, worker: str) -> None:
        """Record the claim of an outstanding job, no matter who owns its partition now."""
        if (known := self._outstanding.get(job)) is not None and known.worker != worker:
            self._outstanding[job] = claimed = known._replace(worker=worker)
            former = self._count_outstanding(known, -1)
            self._list_credit(self._count_outstanding(claimed, 1))
            self._list_credit(former)

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
            self._list_credit(self._count_outstanding(known, -1))

    def _count_outstanding(self, job: _Outstanding, count: int) -> list[_WorkerState]:
        """Count a job for the workers that have it. Returns them: their credit has changed."""
        if job.worker is None:
            self._unclaimed[job.partition, job.needs_images] += count
            states = self._owners[job.partition]
        else:
            claimed = (job.worker, job.needs_images)
            self._claimed[claimed] += count
            if not self._claimed[claimed]:  # worker names never repeat
                del self._claimed[claimed]
            state = self._workers.get(job.worker)
            states = [] if state is None else [state]
        for state in states:
            state.outstanding[job.needs_images] += count
        return states

    def _own_partitions(self, state: _WorkerState) -> None:
        for partition in state.offer.partitions:
            self._owners[partition].append(state)
        for needs_images in (False, True):
            unclaimed = (self._unclaimed[one, needs_images] for one in state.offer.partitions)
            claimed = self._claimed[state.offer.worker, needs_images]
            state.outstanding[needs_images] = sum(unclaimed) + claimed

    def _disown_partitions(self, state: _WorkerState) -> None:
        for partition in state.offer.partitions:
            self._owners[partition].remove(state)

    def _list_credit(self, states: Iterable[_WorkerState]) -> None:
        for state in states:
            for index in self._indexes:
                index.update(self._workers, state)

    def forget_jobs(self) -> None:
        """Drop all outstanding jobs before a restore. Offers remain."""
        self._outstanding.clear()
        self._by_partition.clear()
        self._unclaimed.clear()
        self._claimed.clear()
        self._returned.clear()
        for state in self._workers.values():
            state.outstanding = [0, 0]
        self._list_credit(self._workers.values())

    def best_partition(
        self, now: float, *, needs_images: bool = False, job: Hashable = None
    ) -> int | None:
        """Return the least used partition of the worker with the most credit for such a job.

        Prefers workers that have not returned `job`. Returns `None` when no worker has credit.
        """
        avoided = self._avoided_workers(job, now, needs_images=needs_images)
        if avoided:
            best = self._find_best_beside(avoided, now, needs_images=needs_images)
        else:
            heard_since = now - self._silence_s
            best = self._indexes[needs_images].first(self._workers, heard_since=heard_since)
        return None if best is None else self._least_used_partition(best, needs_images)

    def find_overtaking_partition(
        self, rank: float, now: float, *, needs_images: bool
    ) -> int | None:
        """Return a partition for a job that overtakes all jobs that wait for permits at its worker.

        O(workers): for the moment at which no worker has credit.
        """
        overtakable = [
            state
            for state in self._workers.values()
            if now - state.offer.at <= self._silence_s
            and state.can_overtake(rank, needs_images=needs_images)
        ]
        if not overtakable:
            return None
        best = max(overtakable, key=attrgetter("free_slots"))
        return self._least_used_partition(best, needs_images)

    def _least_used_partition(self, state: _WorkerState, needs_images: bool) -> int:
        usable = state.offer.usable_partitions(needs_images=needs_images)
        return min(usable, key=self._by_partition.__getitem__)

    def _find_best_beside(
        self, avoided: Collection[str], now: float, *, needs_images: bool
    ) -> _WorkerState | None:
        """Return the worker with the most credit: an avoided one only if no other has any."""
        best, most = None, (False, 0)
        for state in self._workers.values():
            credit = self._compute_credit(state, now, needs_images=needs_images)
            rank = (state.offer.worker not in avoided, credit)
            if credit > 0 and rank > most:
                best, most = state, rank
        return best

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
        causes = Counter[str]()
        active = 0
        for state in self._workers.values():
            offer = state.offer
            if not self._is_active(offer, now):
                continue
            active += 1
            if offer.images_stopped_by is not None:
                causes[offer.images_stopped_by] += 1
            elif offer.usable_partitions(needs_images=True):
                return None
        if not active:
            return None
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
        if any(self._compute_credit(self._workers[offer.worker], now) > 0 for offer in active):
            return None
        causes = Counter(offer.limited_by for offer in active if offer.limited_by is not None)
        return causes.most_common(1)[0][0] if causes else WaitReason.NO_FREE_SLOT

    def permitted_jobs_per_s(self, now: float) -> float | None:
        """Return how many jobs a second all permits start, while permits limit the dispatch."""
        rates = [offer.jobs_per_s for offer in self._active_offers(now)]
        if self.limiting_cause(now) not in _PERMIT_LIMITS or None in rates:
            return None
        return sum(rate for rate in rates if rate is not None)

    def forget_silent_workers(self, now: float, *, after_s: float = 600) -> None:
        """Drop workers without a report for `after_s` seconds: worker names never repeat."""
        silent = [state for state in self._workers.values() if now - state.offer.at > after_s]
        for state in silent:
            self._disown_partitions(state)
            del self._workers[state.offer.worker]

    def _active_offers(self, now: float) -> list[WorkerOffer]:
        """Return the recent offers of workers with quota for texts, which every job needs."""
        return [
            state.offer for state in self._workers.values() if self._is_active(state.offer, now)
        ]

    def _is_active(self, offer: WorkerOffer, now: float) -> bool:
        return now - offer.at <= self._silence_s and bool(
            offer.usable_partitions(needs_images=False)
        )

    def _compute_credit(
        self, state: _WorkerState, now: float, *, needs_images: bool = False
    ) -> int:
        if now - state.offer.at > self._silence_s:
            return 0
        return state.credit(needs_images=needs_images)
