"""The simulated scheduler: admission, fair queue, dispatch by credit, and settlement."""

from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import Protocol, TypeVar

from sandbox.simulation.clock import VirtualClock
from sandbox.simulation.settings import WorldSettings
from sandbox.simulation.system.jobs import SimulatedJob
from services.generator.jobs.rules import FailJob, RetryLater
from services.scheduler.admission.rules import AdmissionPolicy, StoreRates
from services.scheduler.dispatch.picking import PickableQueue, pick_job
from services.scheduler.dispatch.rules import WorkerCreditTracker, WorkerOffer
from services.scheduler.fair_queue.queue import (
    CounterChange,
    FairQueue,
    JobId,
    PickedJob,
    WaitingJob,
)
from shared.domain.stores import ALL_STORES

_FORGET_EVERY_S = 60.0

T = TypeVar("T")


class JobQueue(PickableQueue, Protocol):
    """What the scheduler needs of a queue: the production fair queue, or another policy."""

    @property
    def pending(self) -> int: ...

    def enqueue(self, job: WaitingJob, now: float) -> None: ...

    def hold_image_jobs(self, held: bool) -> None: ...

    def settle_job(self, job: JobId, store_name: str, spent: int, *, ended: bool) -> None: ...

    def next_due_at(self, now: float) -> float | None: ...

    def count_waiting(self, store: str) -> int: ...

    def take_counter_changes(self) -> list[CounterChange]: ...


def create_queue(settings: WorldSettings) -> FairQueue:
    """Create the production fair queue."""
    return FairQueue(
        cap=settings.cap, default_cost=settings.default_cost, hard_cap=settings.hard_cap
    )


class SimulatedScheduler:
    """One leader. Whatever it learns takes effect at the next turn of its loop.

    `deliver` brings tasks to their partitions. `record_enqueue` and `record_dispatch` count the
    jobs that begin to wait and those that are picked.
    """

    def __init__(
        self,
        clock: VirtualClock,
        settings: WorldSettings,
        queue: JobQueue,
        *,
        deliver: Callable[[SimulatedJob], None],
        record_enqueue: Callable[[SimulatedJob], None],
        record_dispatch: Callable[[SimulatedJob, PickedJob, float], None],
    ) -> None:
        self.queue = queue
        self.credit = WorkerCreditTracker(silence_s=settings.recovery.silence_s)
        self.waiting: dict[int, SimulatedJob] = {}
        """The jobs in the fair queue."""
        self._clock = clock
        self._settings = settings
        self._delays = settings.delays
        self._deliver = deliver
        self._record_enqueue = record_enqueue
        self._record_dispatch = record_dispatch
        self._admission = AdmissionPolicy(
            per_store=settings.max_pending_per_store, total=settings.max_pending_total
        )
        self._rates = StoreRates()
        self._dirty: set[str] = set()
        self._closed: dict[str, float] = {}
        self._requests: deque[tuple[float, SimulatedJob]] = deque()
        self._reports: deque[tuple[float, WorkerOffer]] = deque()
        self._claims: deque[tuple[float, tuple[SimulatedJob, str]]] = deque()
        self._outcomes: deque[tuple[float, tuple[SimulatedJob, RetryLater | FailJob | None]]] = (
            deque()
        )
        self._inboxes = (self._requests, self._reports, self._claims, self._outcomes)
        self._turn_at = inf
        self._last_turn_at = -inf
        self._forgot_at = 0.0
        self._dispatching = False
        self._undelivered: deque[list[SimulatedJob]] = deque()
        self.charged = 0
        """Nano-USD that settlement has charged to stores."""

    def find_retry_after(self, store: str) -> float | None:
        """Return the seconds after which a refused request may come again; `None`: accepted."""
        if not self._closed:
            return None
        waits = [self._closed[name] for name in (store, ALL_STORES) if name in self._closed]
        return max(waits, default=None)

    def undelivered(self) -> Iterator[SimulatedJob]:
        """Yield the dispatched jobs that are on their way to a worker."""
        for batch in self._undelivered:
            yield from batch

    def unsettled(self) -> Iterator[SimulatedJob]:
        """Yield the jobs with an outcome that is not settled."""
        for _, (job, _) in self._outcomes:
            yield job

    @property
    def unsettled_ends(self) -> int:
        return sum(not isinstance(outcome, RetryLater) for _, (_, outcome) in self._outcomes)

    @property
    def unread_requests(self) -> int:
        return len(self._requests)

    def receive_request(self, job: SimulatedJob) -> None:
        self._receive(self._requests, job, self._delays.request_s)

    def receive_report(self, offer: WorkerOffer) -> None:
        self._receive(self._reports, offer, self._delays.report_s)

    def receive_claim(self, job: SimulatedJob, worker: str) -> None:
        self._receive(self._claims, (job, worker), self._delays.event_s)

    def receive_outcome(self, job: SimulatedJob, outcome: RetryLater | FailJob | None) -> None:
        self._receive(self._outcomes, (job, outcome), self._delays.event_s)

    def _receive(self, inbox: deque[tuple[float, T]], message: T, delay_s: float) -> None:
        at = self._clock.now + delay_s
        inbox.append((at, message))
        self._plan_turn(at)

    def _plan_turn(self, at: float) -> None:
        at = max(at, self._last_turn_at + self._delays.turn_s)
        if at < self._turn_at:
            self._turn_at = at
            self._clock.schedule(at, self._run_turn, at)

    def _run_turn(self, at: float) -> None:
        """Apply everything that has come: reports, requests, then claims and outcomes."""
        if at != self._turn_at:
            return
        now = self._clock.now
        self._turn_at, self._last_turn_at = inf, now
        while self._reports and self._reports[0][0] <= now:
            self.credit.apply_offer(self._reports.popleft()[1])
        while self._requests and self._requests[0][0] <= now:
            self._enqueue(self._requests.popleft()[1], now)
        while self._claims and self._claims[0][0] <= now:
            job, worker = self._claims.popleft()[1]
            self.credit.record_claim(job.number, worker)
        while self._outcomes and self._outcomes[0][0] <= now:
            self._settle(*self._outcomes.popleft()[1], now)
        self._decide_admission(now)
        if not self._dispatching:
            self._dispatch(None)
        next_at = min((inbox[0][0] for inbox in self._inboxes if inbox), default=inf)
        due_at = self.queue.next_due_at(now)
        self._plan_next(min(next_at, inf if due_at is None else due_at))

    def _plan_next(self, at: float) -> None:
        if at < inf:
            self._plan_turn(at)

    def _enqueue(self, job: SimulatedJob, now: float, not_before: float = 0.0) -> None:
        self.waiting[job.number] = job
        self._record_enqueue(job)
        waiting = WaitingJob(
            -job.priority,
            job.requested_at,
            job.number,
            job.store,
            not_before,
            None,
            job.needs_image,
        )
        self.queue.enqueue(waiting, now)
        self._dirty.add(job.store)

    def _settle(self, job: SimulatedJob, outcome: RetryLater | FailJob | None, now: float) -> None:
        returns = isinstance(outcome, RetryLater)
        self.queue.settle_job(job.number, job.store, job.spent, ended=not returns)
        self.charged += job.spent
        job.spent = 0
        self._dirty.add(job.store)
        if isinstance(outcome, RetryLater):
            self.credit.record_return(job.number)
            self._enqueue(job, now, now + outcome.delay_s)
        else:
            self.credit.record_settlement(job.number)

    def _decide_admission(self, now: float) -> None:
        decisions = self._admission.decide_changes(
            self._dirty,
            waiting=self.queue.count_waiting,
            total=self.queue.pending,
            rate=lambda store: self._rates.per_second(store, now),
        )
        self._dirty.clear()
        for decision in decisions:
            if decision.closed:
                self._closed[decision.store] = decision.retry_after_s
            else:
                self._closed.pop(decision.store, None)
        if now - self._forgot_at > _FORGET_EVERY_S:
            self._forgot_at = now
            self._rates.forget_idle(now)
            self.credit.forget_silent_workers(now)
            self.queue.take_counter_changes()

    def _dispatch(self, _: object) -> None:
        """Dispatch one batch, and the next one when its rows are written."""
        now = self._clock.now
        batch = self._pick_batch(now)
        self._dispatching = bool(batch)
        if batch:
            self._clock.schedule(now + self._delays.batch_s, self._dispatch)
            self._undelivered.append(batch)
            self._clock.schedule(now + self._delays.task_s, self._deliver_batch)

    def _deliver_batch(self, _: object) -> None:
        for job in self._undelivered.popleft():
            self._deliver(job)

    def _pick_batch(self, now: float) -> list[SimulatedJob]:
        batch = list[SimulatedJob]()
        if not self.queue.pending:
            return batch
        self.queue.hold_image_jobs(self.credit.find_image_outage(now) is not None)
        while len(batch) < self._settings.batch_size:
            job = self._pick_job(now)
            if job is None:
                break
            batch.append(job)
        if batch:
            self._dirty.update(job.store for job in batch)
        return batch

    def _pick_job(self, now: float) -> SimulatedJob | None:
        """Pick the next job that a worker accepts, as the dispatcher does."""
        found = pick_job(self.queue, self.credit, now)
        if found is None:
            return None
        partition, pick = found
        assert isinstance(pick.job, int)
        self.credit.record_dispatch(pick.job, partition, needs_images=pick.needs_images)
        self._rates.record_amount(pick.store, now)
        job = self.waiting.pop(pick.job)
        job.partition, job.permit_rank = partition, pick.permit_rank
        self._record_dispatch(job, pick, now)
        return job
