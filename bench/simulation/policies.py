"""The orders that are compared: the production rules, and what others use in their place."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.simulation.model import Job, Policy
from services.scheduler.fair_queue.accounts import WaitingJob
from services.scheduler.fair_queue.priority_index import CapClass, PriorityIndex
from services.scheduler.fair_queue.queue import FairQueue

CAP = 20


class Fair:
    """The production rules. They know a job's cost only once it has ended."""

    def __init__(self, accounts: Mapping[str, str]) -> None:
        self._order = FairQueue(cap=CAP, default_cost=5_000_000)
        self._jobs: dict[int, Job] = {}
        for store, account in accounts.items():
            self._order.restore_store(
                store, weight=1, served=0, mean_cost=0, settled_jobs=0, account=account
            )

    def add(self, job: Job, now: float) -> None:
        self._jobs[job.number] = job
        self._order.enqueue(WaitingJob.create(job=job.number, store=job.store, created_at=job.asked_at), now)

    def pick(self, now: float) -> Job | None:
        picked = self._order.pick_next(now)
        if picked is None:
            return None
        assert isinstance(picked.job, int)
        return self._jobs.pop(picked.job)

    def settle(self, job: Job, now: float) -> None:
        self._order.settle_job(job.number, job.store, job.cost, ended=True)


class Fifo:
    """First come, first served, whoever comes."""

    def __init__(self, accounts: Mapping[str, str]) -> None:
        self._queue: deque[Job] = deque()

    def add(self, job: Job, now: float) -> None:
        self._queue.append(job)

    def pick(self, now: float) -> Job | None:
        return self._queue.popleft() if self._queue else None

    def settle(self, job: Job, now: float) -> None:
        return


@dataclass(slots=True)
class _Queue:
    """One store's, for the orders below."""

    name: str
    jobs: deque[Job] = field(default_factory=deque)
    in_flight: int = 0
    deficit: int = 0

    @property
    def position(self) -> float:
        return self.jobs[0].number


class CapOnly:
    """First come, first served, but a store has at most `CAP` in flight while others wait."""

    def __init__(self, accounts: Mapping[str, str]) -> None:
        self._queues: dict[str, _Queue] = {}
        self._line: PriorityIndex[_Queue] = PriorityIndex()

    def add(self, job: Job, now: float) -> None:
        queue = self._queues.setdefault(job.store, _Queue(job.store))
        queue.jobs.append(job)
        self._place(queue)

    def pick(self, now: float) -> Job | None:
        lane = self._line.front()
        queue = self._line.first(lane) if lane is not None else None
        if queue is None:
            return None
        queue.in_flight += 1
        job = queue.jobs.popleft()
        self._place(queue)
        return job

    def settle(self, job: Job, now: float) -> None:
        queue = self._queues[job.store]
        queue.in_flight -= 1
        self._place(queue)

    def _place(self, queue: _Queue) -> None:
        lane = CapClass.WITHIN if queue.in_flight < CAP else CapClass.BEYOND
        self._line.place(queue, lane if queue.jobs else None)


class RoundRobin:
    """One job of each store in turn: counts jobs, whatever they cost."""

    def __init__(self, accounts: Mapping[str, str]) -> None:
        self._queues: dict[str, _Queue] = {}
        self._ring: deque[_Queue] = deque()

    def add(self, job: Job, now: float) -> None:
        queue = self._queues.setdefault(job.store, _Queue(job.store))
        if not queue.jobs:
            self._ring.append(queue)
        queue.jobs.append(job)

    def pick(self, now: float) -> Job | None:
        if not self._ring:
            return None
        queue = self._ring.popleft()
        job = queue.jobs.popleft()
        if queue.jobs:
            self._ring.append(queue)
        return job

    def settle(self, job: Job, now: float) -> None:
        return


class DeficitRoundRobin(RoundRobin):
    """Shreedhar and Varghese's: each store in turn may spend a quantum. Told the true costs, which nobody knows."""

    QUANTUM = 5_000_000

    def __init__(self, accounts: Mapping[str, str]) -> None:
        super().__init__(accounts)
        self._had_its_quantum = False

    def pick(self, now: float) -> Job | None:
        while self._ring:
            queue = self._ring[0]
            if not self._had_its_quantum:
                queue.deficit += self.QUANTUM
                self._had_its_quantum = True
            if queue.deficit >= queue.jobs[0].cost:
                return self._serve(queue)
            self._ring.rotate(-1)
            self._had_its_quantum = False
        return None

    def _serve(self, queue: _Queue) -> Job:
        job = queue.jobs.popleft()
        queue.deficit -= job.cost
        if not queue.jobs:
            queue.deficit = 0
            self._ring.popleft()
            self._had_its_quantum = False
        return job


POLICIES: dict[str, Callable[[Mapping[str, str]], Policy]] = {
    "blogstream": Fair,
    "FIFO": Fifo,
    "cap only": CapOnly,
    "round-robin": RoundRobin,
    "DRR": DeficitRoundRobin,
}
