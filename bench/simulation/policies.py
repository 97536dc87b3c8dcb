"""The compared scheduling policies: the production fair queue and common alternatives."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.simulation.model import SchedulingPolicy, SimulatedJob
from services.scheduler.fair_queue.accounts import WaitingJob
from services.scheduler.fair_queue.priority_index import CapClass, PriorityIndex
from services.scheduler.fair_queue.queue import FairQueue

CAP = 20


class FairPolicy:
    """The production fair queue. It learns a job's cost only when the job has ended."""

    def __init__(self, accounts: Mapping[str, str]) -> None:
        self._fair = FairQueue(cap=CAP, default_cost=5_000_000)
        self._jobs: dict[int, SimulatedJob] = {}
        for store, account in accounts.items():
            self._fair.restore_store(
                store, weight=1, served=0, mean_cost=0, settled_jobs=0, account=account
            )

    def enqueue(self, job: SimulatedJob, now: float) -> None:
        self._jobs[job.number] = job
        self._fair.enqueue(
            WaitingJob.create(job=job.number, store=job.store, created_at=job.requested_at), now
        )

    def pick_next(self, now: float) -> SimulatedJob | None:
        picked = self._fair.pick_next(now)
        if picked is None:
            return None
        assert isinstance(picked.job, int)
        return self._jobs.pop(picked.job)

    def settle_job(self, job: SimulatedJob, now: float) -> None:
        self._fair.settle_job(job.number, job.store, job.cost, ended=True)


class FifoPolicy:
    """First come, first served."""

    def __init__(self, accounts: Mapping[str, str]) -> None:
        self._queue: deque[SimulatedJob] = deque()

    def enqueue(self, job: SimulatedJob, now: float) -> None:
        self._queue.append(job)

    def pick_next(self, now: float) -> SimulatedJob | None:
        return self._queue.popleft() if self._queue else None

    def settle_job(self, job: SimulatedJob, now: float) -> None:
        return


@dataclass(slots=True)
class _PolicyQueue:
    """One store's queue, for the policies below."""

    name: str
    jobs: deque[SimulatedJob] = field(default_factory=deque)
    in_flight: int = 0
    deficit: int = 0

    @property
    def virtual_time(self) -> float:
        return self.jobs[0].number


class CapOnlyPolicy:
    """First come, first served, with at most `CAP` jobs of a store in flight while others wait."""

    def __init__(self, accounts: Mapping[str, str]) -> None:
        self._queues: dict[str, _PolicyQueue] = {}
        self._index: PriorityIndex[_PolicyQueue] = PriorityIndex()

    def enqueue(self, job: SimulatedJob, now: float) -> None:
        queue = self._queues.setdefault(job.store, _PolicyQueue(job.store))
        queue.jobs.append(job)
        self._update_index(queue)

    def pick_next(self, now: float) -> SimulatedJob | None:
        cap_class = self._index.first_class()
        queue = self._index.first(cap_class) if cap_class is not None else None
        if queue is None:
            return None
        queue.in_flight += 1
        job = queue.jobs.popleft()
        self._update_index(queue)
        return job

    def settle_job(self, job: SimulatedJob, now: float) -> None:
        queue = self._queues[job.store]
        queue.in_flight -= 1
        self._update_index(queue)

    def _update_index(self, queue: _PolicyQueue) -> None:
        cap_class = CapClass.BELOW_CAP if queue.in_flight < CAP else CapClass.AT_CAP
        self._index.update(queue, cap_class if queue.jobs else None)


class RoundRobinPolicy:
    """One job of each store in turn, regardless of cost."""

    def __init__(self, accounts: Mapping[str, str]) -> None:
        self._queues: dict[str, _PolicyQueue] = {}
        self._ring: deque[_PolicyQueue] = deque()

    def enqueue(self, job: SimulatedJob, now: float) -> None:
        queue = self._queues.setdefault(job.store, _PolicyQueue(job.store))
        if not queue.jobs:
            self._ring.append(queue)
        queue.jobs.append(job)

    def pick_next(self, now: float) -> SimulatedJob | None:
        if not self._ring:
            return None
        queue = self._ring.popleft()
        job = queue.jobs.popleft()
        if queue.jobs:
            self._ring.append(queue)
        return job

    def settle_job(self, job: SimulatedJob, now: float) -> None:
        return


class DeficitRoundRobinPolicy(RoundRobinPolicy):
    """Shreedhar and Varghese's DRR: each store in turn may spend a quantum.

    It gets the true costs in advance, unlike a production scheduler.
    """

    QUANTUM = 5_000_000

    def __init__(self, accounts: Mapping[str, str]) -> None:
        super().__init__(accounts)
        self._quantum_granted = False

    def pick_next(self, now: float) -> SimulatedJob | None:
        while self._ring:
            queue = self._ring[0]
            if not self._quantum_granted:
                queue.deficit += self.QUANTUM
                self._quantum_granted = True
            if queue.deficit >= queue.jobs[0].cost:
                return self._take_job(queue)
            self._ring.rotate(-1)
            self._quantum_granted = False
        return None

    def _take_job(self, queue: _PolicyQueue) -> SimulatedJob:
        job = queue.jobs.popleft()
        queue.deficit -= job.cost
        if not queue.jobs:
            queue.deficit = 0
            self._ring.popleft()
            self._quantum_granted = False
        return job


POLICIES: dict[str, Callable[[Mapping[str, str]], SchedulingPolicy]] = {
    "blogstream": FairPolicy,
    "FIFO": FifoPolicy,
    "cap only": CapOnlyPolicy,
    "round-robin": RoundRobinPolicy,
    "DRR": DeficitRoundRobinPolicy,
}
