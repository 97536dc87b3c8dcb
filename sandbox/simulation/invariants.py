"""Invariants of the simulated world, checked after every event when asked.

They are computed from the world's own records, not from what the rules believe.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sandbox.simulation.system.jobs import SimulatedJob
from sandbox.simulation.system.scheduler import JobQueue
from services.scheduler.fair_queue.queue import FairQueue, PickedJob

if TYPE_CHECKING:
    from sandbox.simulation.world import SimulatedWorld

_TOLERANCE = 1e-6


class InvariantError(AssertionError):
    """The world is in a state that must never occur."""


class InvariantChecker:
    """Raises `InvariantError` with the time of the event that broke an invariant."""

    def __init__(self, world: "SimulatedWorld", queue: JobQueue) -> None:
        assert isinstance(queue, FairQueue), "other policies have no such invariants"
        self._world = world
        self._queue = queue
        self._checked_at = 0.0
        self._meters = dict.fromkeys(world.providers.charged_units(), 0.0)
        """The units of each limit that the last minutes' refill has not paid off."""
        self._charged = dict(self._meters)

    def check(self) -> None:
        """Check everything that must hold between two events."""
        self._check_slots()
        self._check_jobs()
        self._check_money()
        self._check_quota()
        self._check_windows()
        self._checked_at = self._world.clock.now

    def check_pick(self, pick: PickedJob, now: float) -> None:
        """Check that no eligible store of another account was behind the picked one.

        So no account that waits falls behind another by more than one job's reservation.
        """
        queue, cap = self._queue, self._world.settings.cap
        (picked,) = (one for one in queue.summarize_stores() if one.store == pick.store)
        was_at_cap = picked.in_flight > cap
        for other in queue.queue_states(now):
            if other.store == pick.store or not other.queued:
                continue
            if other.only_images and not pick.needs_images:
                continue
            if was_at_cap and not other.at_cap:
                self._fail(f"{pick.store} was picked above its cap while {other.store} waited")
            is_behind = other.account_virtual_time < pick.virtual_time
            if other.at_cap == was_at_cap and is_behind:
                self._fail(f"{pick.store} was picked before {other.store}, which is behind")

    def _check_slots(self) -> None:
        """A worker runs as many jobs as it has taken slots, and no job runs twice."""
        running = set[int]()
        for worker in self._world.fleet.all_workers():
            if len(worker.running) > self._world.settings.slots:
                self._fail(f"{worker.name} runs {len(worker.running)} jobs")
            numbers = {job.number for job in worker.running}
            if running & numbers:
                self._fail(f"jobs {running & numbers} run twice")
            running |= numbers

    def _check_jobs(self) -> None:
        """Every accepted job is in exactly one place, and the queue agrees about all of them."""
        scheduler, statistics = self._world.scheduler, self._world.statistics
        in_flight = sorted(job.number for job in self._jobs_in_flight())
        known = sorted(self._queue.in_flight_jobs(), key=str)
        if in_flight != sorted(number for number in known if isinstance(number, int)):
            self._fail(f"the queue has {len(known)} jobs in flight, the world {len(in_flight)}")
        if self._queue.pending != len(scheduler.waiting):
            self._fail(f"{self._queue.pending} jobs wait, the world has other ones")
        places = len(scheduler.waiting) + len(in_flight) + scheduler.unread_requests
        settled = statistics.done + statistics.failed - scheduler.unsettled_ends
        if statistics.arrived != places + settled + self._world.refused_waiting:
            self._fail(f"{statistics.arrived} jobs have come, {places + settled} are accounted for")

    def _check_money(self) -> None:
        """Whatever the providers bill is charged to a store, is about to be, or died unsaved."""
        unsettled = sum(job.spent for job in self._jobs_in_flight())
        charged = self._world.scheduler.charged
        if self._world.spent != charged + unsettled + self._world.lost:
            self._fail(
                f"{self._world.spent} nano-USD were billed, {charged} are charged,"
                f" {unsettled} are not yet, {self._world.lost} are lost"
            )

    def _check_quota(self) -> None:
        """The shares of an account make at most one account, and no bucket overflows."""
        workers = [worker for worker in self._world.fleet.workers.values() if worker.alive]
        for place in range(3):
            limiters = [worker.limiters[place] for worker in workers]
            shares = sum(limiter.share or 0.0 for limiter in limiters)
            if shares > 1 + _TOLERANCE:
                self._fail(f"{shares} of an account is shared out")
            for limiter in limiters:
                burst_s = self._world.settings.burst_s
                for resource in limiter.rules.resources:
                    most = limiter.rules.limit_of(resource) / 60 * burst_s
                    level = limiter.rules.level_of(resource, self._world.clock.now)
                    if level > most * (limiter.share or 1.0) + _TOLERANCE:
                        self._fail(f"a bucket of {resource} holds {level}")

    def _check_windows(self) -> None:
        """No window of any length takes more than one minute's limit and its refill."""
        seconds = self._world.clock.now - self._checked_at
        limits = self._world.limits
        for name, charged in self._world.providers.charged_units().items():
            paid_off = max(self._meters[name] - limits[name] / 60 * seconds, 0.0)
            self._meters[name] = paid_off + charged - self._charged[name]
            self._charged[name] = charged
            if self._meters[name] > limits[name] + _TOLERANCE:
                self._fail(f"{name}: {self._meters[name]} units, the limit is {limits[name]}")

    def _jobs_in_flight(self) -> Iterator[SimulatedJob]:
        """Yield the dispatched jobs that the scheduler has not settled."""
        yield from self._world.scheduler.undelivered()
        yield from self._world.scheduler.unsettled()
        yield from self._world.fleet.jobs()

    def _fail(self, problem: str) -> None:
        raise InvariantError(f"at {self._world.clock.now:.3f} s: {problem}")
