"""Assembles a simulated world from its settings and its workload, and lets it run."""

import random
from collections.abc import Callable, Iterator

from sandbox.simulation.arrivals import Arrival, Workload
from sandbox.simulation.clock import VirtualClock
from sandbox.simulation.invariants import InvariantChecker
from sandbox.simulation.results.statistics import RunStatistics
from sandbox.simulation.results.timeline import Sample
from sandbox.simulation.settings import WorldSettings, limit_name
from sandbox.simulation.system.fleet import SimulatedFleet
from sandbox.simulation.system.jobs import SimulatedJob
from sandbox.simulation.system.providers import ProviderModel
from sandbox.simulation.system.scheduler import JobQueue, SimulatedScheduler, create_queue
from services.generator.jobs.rules import FailJob, RetryLater
from services.scheduler.dispatch.rules import WorkerOffer
from services.scheduler.fair_queue.queue import PickedJob

_SAMPLE_EVERY_S = 1.0
_WINDOW_S = 60.0
_SETTLE_S = 1.0
"""The last outcomes reach the scheduler meanwhile."""
_SPREAD = 0.2
"""Clients that were refused come again up to this part later than they were told."""


class SimulatedWorld:
    """One run. The parts announce their events here, and `statistics` counts them.

    `queue` replaces the production fair queue, to compare them. With `check` the invariants are
    checked at every event, which is slow. With `keep_jobs` all jobs are kept in `jobs`.
    """

    def __init__(
        self,
        settings: WorldSettings,
        workload: Workload,
        *,
        queue: JobQueue | None = None,
        window_s: float = _WINDOW_S,
        check: bool = False,
        keep_jobs: bool = False,
    ) -> None:
        self.settings = settings
        self.workload = workload
        self.clock = VirtualClock()
        self.statistics = RunStatistics(workload.classes, window_s=window_s)
        self.spent = 0
        """Nano-USD that the providers bill."""
        self.lost = 0
        """The part of it for answers that a dead worker did not save."""
        rng = random.Random(settings.seed)
        self.providers = ProviderModel(settings, rng)
        self.fleet = SimulatedFleet(self.clock, settings, self.providers, self)
        self.jobs: list[SimulatedJob] | None = [] if keep_jobs else None
        self.scheduler = SimulatedScheduler(
            self.clock,
            settings,
            queue or create_queue(settings),
            deliver=self.fleet.deliver_task,
            record_enqueue=self._record_enqueue,
            record_dispatch=self._record_dispatch,
        )
        self.refused_waiting = 0
        """The requests that were refused and will come again."""
        self._checker = InvariantChecker(self, self.scheduler.queue) if check else None
        self._rng = rng
        self._arrivals: Iterator[Arrival] = iter(workload.arrivals)
        self._number = 0
        self._exhausted = False

    @property
    def limits(self) -> dict[str, float]:
        """The units a minute of each limit, by the names of `ProviderModel.charged_units`."""
        return {
            limit_name(account, resource): limit
            for account, resources in self.settings.limits.items()
            for resource, limit in resources.items()
        }

    def run(self, *, progress: Callable[[], None] = lambda: None) -> None:
        """Let the world run until all jobs have ended, or until `settings.until`."""
        self._await_arrival()
        self._take_sample(None)
        self._close_window(None)
        after_each = self._checker.check if self._checker is not None else None
        self.clock.run(self.settings.until, after_each=after_each, progress=progress)

    # Requests

    def _await_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is None:
            self._exhausted = True
            self._stop_when_done()
        else:
            self.clock.schedule(arrival.at, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self._number += 1
        job = SimulatedJob(
            self._number,
            arrival.store,
            arrival.kind,
            requested_at=arrival.at,
            needs_image=arrival.needs_image,
            priority=arrival.priority,
            cost_factor=arrival.cost,
        )
        if self.jobs is not None:
            self.jobs.append(job)
        self.statistics.record_arrival(job)
        self._submit(job)
        self._await_arrival()

    def _submit(self, job: SimulatedJob) -> None:
        """Send a request. If it is refused, the client sends it again when it was told to."""
        retry_s = self.scheduler.find_retry_after(job.store)
        if retry_s is None:
            self.scheduler.receive_request(job)
            return
        self.statistics.record_refusal(job)
        self.refused_waiting += 1
        again_at = self.clock.now + retry_s * (1 + _SPREAD * self._rng.random())
        self.clock.schedule(again_at, self._submit_again, job)

    def _submit_again(self, job: SimulatedJob) -> None:
        self.refused_waiting -= 1
        self._submit(job)

    # Events of the parts

    def _record_enqueue(self, job: SimulatedJob) -> None:
        self.statistics.fairness.record_enqueue(job.store)

    def _record_dispatch(self, job: SimulatedJob, pick: PickedJob, now: float) -> None:
        self.statistics.fairness.record_dispatch(pick.store, pick.reserved)
        if self._checker is not None:
            self._checker.check_pick(pick, now)

    def job_started(self, job: SimulatedJob, worker: str) -> None:
        self.statistics.record_start(job, self.clock.now)
        self.scheduler.receive_claim(job, worker)

    def job_ended(self, job: SimulatedJob, outcome: RetryLater | FailJob | None) -> None:
        self.scheduler.receive_outcome(job, outcome)
        if isinstance(outcome, RetryLater):
            self.statistics.retries += 1
            return
        self.statistics.record_end(job, self.clock.now, failed=outcome is not None)
        self._stop_when_done()

    def worker_reported(self, offer: WorkerOffer) -> None:
        self.scheduler.receive_report(offer)

    def jobs_wait(self) -> bool:
        return self.scheduler.queue.pending > 0

    def money_billed(self, job: SimulatedJob, amount: int, *, saved: bool) -> None:
        self.spent += amount
        if saved:
            job.spent += amount
            self.statistics.classes[job.kind].cost += amount
        else:
            self.lost += amount

    def _stop_when_done(self) -> None:
        if self._exhausted and not self.statistics.open:
            self.clock.schedule(self.clock.now + _SETTLE_S, lambda _: self.clock.stop())

    # Measures

    def _take_sample(self, _: object) -> None:
        workers = self.fleet.workers.values()
        self.statistics.add_sample(
            Sample(
                at=self.clock.now,
                waiting=self.scheduler.queue.pending,
                running=sum(len(worker.running) for worker in workers if worker.alive),
                offered=self.fleet.count_quota_owners() * self.settings.slots,
                done=self.statistics.done,
                charged=self.providers.charged_units(),
            )
        )
        self.clock.schedule(self.clock.now + _SAMPLE_EVERY_S, self._take_sample)

    def _close_window(self, _: object) -> None:
        fairness = self.statistics.fairness
        fairness.close_window()
        self.clock.schedule(self.clock.now + fairness.seconds, self._close_window)
