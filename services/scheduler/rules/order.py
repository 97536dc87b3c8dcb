"""The fair order: a virtual counter of money spent per store, with reserve and settle.

The store that goes next is the one that has been served the least money per weight, among those with work waiting
and fewer than `cap` jobs in flight. Forwarding charges an estimate at once, the result corrects it, so a store cannot
run ahead while its bills are still open. A store that comes back from idle starts at the least counter among the
stores that have work waiting: it keeps no credit from the time it asked for nothing.

Every operation is O(log n) in the stores with work waiting. Entries of the heaps are never moved: a changed store
gets a new entry and the old one is skipped when it surfaces.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush

Job = Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job that waits. Times are seconds since the epoch; `estimate` (nano-USD) beats the store's mean when known."""

    job: Job
    store: str
    created_at: float
    priority: int = 0
    not_before: float = 0.0
    estimate: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    job: Job
    store: str
    reserved: int
    """Nano-USD charged to the store until the bill is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterChange:
    """What happened to a store's counter since changes were last taken: to be added to what is saved."""

    store: str
    served: int
    mean_cost: int
    settled_jobs: int


@dataclass(slots=True)
class _Store:
    name: str
    weight: float = 1.0
    served: int = 0
    """Settled bills, open reservations and lifts, in nano-USD."""
    mean_cost: int = 0
    settled_jobs: int = 0
    queue: list[tuple[int, float, int, Waiting]] = field(default_factory=list)
    waiting: int = 0
    """Its jobs that wait, those that are not due yet included."""
    in_flight: int = 0
    entry: int = 0
    """The number of its live entry in a heap; older entries are dead."""
    unsaved_served: int = 0
    unsaved_jobs: int = 0

    @property
    def position(self) -> float:
        return self.served / self.weight


_Heap = list[tuple[float, str, int]]


class FairOrder:
    """The backlog's order. `cap` is how many jobs a store may have in flight while others wait."""

    def __init__(self, *, cap: int, default_cost: int, hard_cap: bool = False) -> None:
        self._cap = cap
        self._hard_cap = hard_cap
        self._default_cost = default_cost
        self._stores: dict[str, _Store] = {}
        self._waiting: dict[Job, Waiting] = {}
        self._flying: dict[Job, tuple[str, int]] = {}
        self._delayed: list[tuple[float, int, Waiting]] = []
        self._within_cap: _Heap = []
        self._beyond_cap: _Heap = []
        self._last_position = 0.0
        """Where the store stood that was picked last: the place of a newcomer when nobody else waits."""
        self._numbers = 0

    def restore(self, store: str, *, weight: float, served: int, mean_cost: int, settled_jobs: int) -> None:
        """Take up a store's saved counter. Called before any of its jobs is added."""
        self._stores[store] = _Store(
            name=store, weight=weight, served=served, mean_cost=mean_cost, settled_jobs=settled_jobs
        )

    def adopt(self, job: Job, store: str, reserved: int) -> None:
        """Take up a job that is in flight already, with what was reserved for it."""
        self._store(store).in_flight += 1
        self._store(store).served += reserved
        self._flying[job] = (store, reserved)
        self._enter(self._store(store))

    def add(self, waiting: Waiting, now: float) -> None:
        """Queue a job. One that waits or flies already is left as it is."""
        if waiting.job in self._waiting or waiting.job in self._flying:
            return
        self._waiting[waiting.job] = waiting
        self._store(waiting.store).waiting += 1
        if waiting.not_before > now:
            heappush(self._delayed, (waiting.not_before, self._number(), waiting))
        else:
            self._queue(waiting)

    def withdraw(self, job: Job) -> None:
        """Forget a waiting job (cancelled). Its place in the queue is skipped when it surfaces."""
        waiting = self._waiting.pop(job, None)
        if waiting is not None:
            store = self._store(waiting.store)
            store.waiting -= 1
            self._trim(store)

    def pick(self, now: float) -> Picked | None:
        """The next job, now in flight and charged its estimate; None when nothing may go."""
        self._wake_delayed(now)
        store = self._first(self._within_cap)
        if store is None and not self._hard_cap:
            store = self._first(self._beyond_cap)  # nobody else has work: a store may borrow
        if store is None:
            return None
        waiting = store.queue[0][3]
        del self._waiting[waiting.job]
        reserved = waiting.estimate or store.mean_cost or self._default_cost
        self._last_position = store.position
        store.served += reserved
        store.waiting -= 1
        store.in_flight += 1
        self._flying[waiting.job] = (store.name, reserved)
        self._trim(store)
        return Picked(job=waiting.job, store=store.name, reserved=reserved)

    def settle(self, job: Job, store_name: str, spent: int, *, ended: bool) -> None:
        """The bill of a job: what it really cost replaces what was reserved (nothing, when it was not in flight)."""
        store = self._store(store_name)
        _, reserved = self._flying.get(job, (store_name, 0))
        if self._flying.pop(job, None) is not None:
            store.in_flight -= 1
        store.served += spent - reserved
        store.unsaved_served += spent
        if ended and spent > 0:
            store.settled_jobs += 1
            store.unsaved_jobs += 1
            store.mean_cost += (spent - store.mean_cost) // min(store.settled_jobs, 20)
        self._enter(store)

    def take_changes(self) -> list[CounterChange]:
        """What changed in the counters since the last call (settled bills and lifts, not open reservations)."""
        changed = [store for store in self._stores.values() if store.unsaved_served or store.unsaved_jobs]
        changes = [
            CounterChange(
                store=store.name, served=store.unsaved_served, mean_cost=store.mean_cost,
                settled_jobs=store.unsaved_jobs,
            )
            for store in changed
        ]  # fmt: skip
        for store in changed:
            store.unsaved_served = store.unsaved_jobs = 0
        return changes

    def next_due(self) -> float | None:
        """When the first delayed job becomes ready."""
        return self._delayed[0][0] if self._delayed else None

    def flying(self) -> dict[Job, tuple[str, int]]:
        """Jobs in flight: their store and what is reserved for them."""
        return dict(self._flying)

    def is_waiting(self, job: Job) -> bool:
        return job in self._waiting

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def oldest(self) -> float | None:
        """When the oldest waiting job was created. O(jobs): for a report, not for a decision."""
        return min((waiting.created_at for waiting in self._waiting.values()), default=None)

    def queues(self) -> list[tuple[str, int, int, int, float]]:
        """(store, waiting, in flight, served, weight) of every store with work."""
        return [
            (store.name, store.waiting, store.in_flight, store.served, store.weight)
            for store in self._stores.values()
            if store.waiting or store.in_flight
        ]

    def _store(self, name: str) -> _Store:
        if name not in self._stores:
            self._stores[name] = _Store(name=name)
        return self._stores[name]

    def _queue(self, waiting: Waiting) -> None:
        store = self._store(waiting.store)
        if not store.queue:
            self._lift(store)
        heappush(store.queue, (-waiting.priority, waiting.created_at, self._number(), waiting))
        self._enter(store)

    def _lift(self, store: _Store) -> None:
        tops = [first.position for heap in (self._within_cap, self._beyond_cap) if (first := self._first(heap))]
        floor = int(min(tops, default=self._last_position) * store.weight)
        if store.served < floor:
            store.unsaved_served += floor - store.served
            store.served = floor

    def _trim(self, store: _Store) -> None:
        """Drop jobs that no longer wait from the front of a store's queue, then give the store its place anew."""
        while store.queue and self._waiting.get(store.queue[0][3].job) is not store.queue[0][3]:
            heappop(store.queue)
        self._enter(store)

    def _enter(self, store: _Store) -> None:
        store.entry = self._number()
        if store.queue:
            heap = self._within_cap if store.in_flight < self._cap else self._beyond_cap
            heappush(heap, (store.position, store.name, store.entry))

    def _first(self, heap: _Heap) -> _Store | None:
        while heap:
            _, name, entry = heap[0]
            if self._stores[name].entry == entry:
                return self._stores[name]
            heappop(heap)
        return None

    def _wake_delayed(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            waiting = heappop(self._delayed)[2]
            if self._waiting.get(waiting.job) is waiting:
                self._queue(waiting)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers
