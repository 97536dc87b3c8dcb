"""The compared scheduling policies: the production fair queue and common alternatives.

Each takes the place of the fair queue in the simulated world. The costs of the stores, as multiples
of the usual cost, are known to one policy only.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sandbox.simulation.system.scheduler import JobQueue
from services.scheduler.fair_queue.priority_index import CapClass, PriorityIndex
from services.scheduler.fair_queue.queue import (
    CounterChange,
    FairQueue,
    JobId,
    PickedJob,
    WaitingJob,
)

CAP = 20
COST = 5_000_000
"""Nano-USD reserved for the first job of a store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What a policy may know: the account of each store, and its cost per post."""

    accounts: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)


def create_fair_queue(stores: Stores) -> FairQueue:
    """Create the production fair queue. It learns a job's cost only when the job has ended."""
    fair = FairQueue(cap=CAP, default_cost=COST)
    for store, account in stores.accounts.items():
        fair.restore_store(store, weight=1, served=0, mean_cost=0, settled_jobs=0, account=account)
    return fair


class SimplePolicy:
    """A policy without retries, images and budgets."""

    def __init__(self) -> None:
        self._pending = 0

    @property
    def pending(self) -> int:
        return self._pending

    def enqueue(self, job: WaitingJob, now: float) -> None:
        self._pending += 1
        self.add_job(job)

    def pick_next(self, now: float, *, images: bool = True) -> PickedJob | None:
        job = self.take_job()
        if job is None:
            return None
        self._pending -= 1
        return PickedJob(
            job=job.job,
            store=job.store,
            reserved=COST,
            account=job.store,
            account_weight=1.0,
            due_at=job.created_at,
            needs_images=job.needs_images,
            permit_rank=float(job.job),  # the permits keep the order of the picks
        )

    def peek_next(self, now: float, *, images: bool = True) -> PickedJob | None:
        return None

    def settle_job(self, job: JobId, store_name: str, spent: int, *, ended: bool) -> None:
        self.release_slot(store_name)

    def hold_image_jobs(self, held: bool) -> None:
        return

    def next_due_at(self, now: float) -> float | None:
        return None

    def count_waiting(self, store: str) -> int:
        return 0

    def take_counter_changes(self) -> list[CounterChange]:
        return []

    def add_job(self, job: WaitingJob) -> None:
        raise NotImplementedError

    def take_job(self) -> WaitingJob | None:
        raise NotImplementedError

    def release_slot(self, store: str) -> None:
        return


class FifoPolicy(SimplePolicy):
    """First come, first served."""

    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self._queue: deque[WaitingJob] = deque()

    def add_job(self, job: WaitingJob) -> None:
        self._queue.append(job)

    def take_job(self) -> WaitingJob | None:
        return self._queue.popleft() if self._queue else None


@dataclass(slots=True)
class _PolicyQueue:
    """One store's queue, for the policies below."""

    name: str
    jobs: deque[WaitingJob] = field(default_factory=deque)
    in_flight: int = 0
    deficit: float = 0.0

    @property
    def virtual_time(self) -> float:
        return float(self.jobs[0].job)


class CapOnlyPolicy(SimplePolicy):
    """First come, first served, with at most `CAP` jobs of a store in flight while others wait."""

    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self._queues: dict[str, _PolicyQueue] = {}
        self._index: PriorityIndex[_PolicyQueue] = PriorityIndex()

    def add_job(self, job: WaitingJob) -> None:
        queue = self._queues.setdefault(job.store, _PolicyQueue(job.store))
        queue.jobs.append(job)
        self._update_index(queue)

    def take_job(self) -> WaitingJob | None:
        cap_class = self._index.first_class()
        queue = self._index.first(cap_class) if cap_class is not None else None
        if queue is None:
            return None
        queue.in_flight += 1
        job = queue.jobs.popleft()
        self._update_index(queue)
        return job

    def release_slot(self, store: str) -> None:
        queue = self._queues[store]
        queue.in_flight -= 1
        self._update_index(queue)

    def _update_index(self, queue: _PolicyQueue) -> None:
        cap_class = CapClass.BELOW_CAP if queue.in_flight < CAP else CapClass.AT_CAP
        self._index.update(queue, cap_class if queue.jobs else None)


class RoundRobinPolicy(SimplePolicy):
    """One job of each store in turn, regardless of cost."""

    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self._queues: dict[str, _PolicyQueue] = {}
        self._ring: deque[_PolicyQueue] = deque()

    def add_job(self, job: WaitingJob) -> None:
        queue = self._queues.setdefault(job.store, _PolicyQueue(job.store))
        if not queue.jobs:
            self._ring.append(queue)
        queue.jobs.append(job)

    def take_job(self) -> WaitingJob | None:
        if not self._ring:
            return None
        queue = self._ring.popleft()
        job = queue.jobs.popleft()
        if queue.jobs:
            self._ring.append(queue)
        return job


class DeficitRoundRobinPolicy(RoundRobinPolicy):
    """Shreedhar and Varghese's DRR: each store in turn may spend a quantum.

    It gets the stores' mean costs in advance, unlike a production scheduler.
    """

    QUANTUM = 1.0

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores)
        self._costs = stores.costs
        self._quantum_granted = False

    def take_job(self) -> WaitingJob | None:
        while self._ring:
            queue = self._ring[0]
            if not self._quantum_granted:
                queue.deficit += self.QUANTUM
                self._quantum_granted = True
            if queue.deficit >= self._costs.get(queue.name, 1.0):
                return self._take_from(queue)
            self._ring.rotate(-1)
            self._quantum_granted = False
        return None

    def _take_from(self, queue: _PolicyQueue) -> WaitingJob:
        job = queue.jobs.popleft()
        queue.deficit -= self._costs.get(queue.name, 1.0)
        if not queue.jobs:
            queue.deficit = 0
            self._ring.popleft()
            self._quantum_granted = False
        return job


POLICIES: dict[str, Callable[[Stores], JobQueue]] = {
    "blogstream": create_fair_queue,
    "FIFO": FifoPolicy,
    "cap only": CapOnlyPolicy,
    "round-robin": RoundRobinPolicy,
    "DRR": DeficitRoundRobinPolicy,
}
