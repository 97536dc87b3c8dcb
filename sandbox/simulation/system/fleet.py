"""The simulated workers as one Kafka group: partitions, rebalances, deaths and deploys."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from sandbox.simulation.clock import VirtualClock
from sandbox.simulation.settings import Deploy, WorkerDeaths, WorldSettings
from sandbox.simulation.system.jobs import SimulatedJob
from sandbox.simulation.system.limiter import SimulatedLimiter
from sandbox.simulation.system.providers import ProviderModel
from sandbox.simulation.system.worker import JobEvents, SimulatedWorker
from services.generator.jobs.rules import RetryLater
from services.generator.quota.checkpoint import Checkpoint, restore_level
from shared.domain.quota_layout import QuotaLayout, smallest_calls


def divide_partitions(members: Sequence[str], partitions: int) -> dict[str, tuple[int, ...]]:
    """Divide the partitions like Kafka's range assignor: a block for each member, by name."""
    assigned, start = dict[str, tuple[int, ...]](), 0
    for place, name in enumerate(sorted(members)):
        count = partitions // len(members) + (place < partitions % len(members))
        assigned[name] = tuple(range(start, start + count))
        start += count
    return assigned


class SimulatedFleet:
    """All workers. Partitions and their quota move between them at each rebalance."""

    def __init__(
        self,
        clock: VirtualClock,
        settings: WorldSettings,
        providers: ProviderModel,
        events: JobEvents,
    ) -> None:
        self.workers: dict[str, SimulatedWorker] = {}
        """The members of the group."""
        self._clock = clock
        self._settings = settings
        self._recovery = settings.recovery
        self._providers = providers
        self._events = events
        self._owners: list[SimulatedWorker | None] = [None] * settings.partitions
        self._unowned: deque[SimulatedJob] = deque()
        """Tasks on partitions without a living owner."""
        self._checkpoints: dict[int, Checkpoint] = {}
        self._rebalance = 0
        self._dead: dict[str, SimulatedWorker] = {}
        """Killed workers whose jobs have not returned."""
        self._names = 0
        for _ in range(settings.workers):
            self._add_worker()
        self._assign(self._rebalance)
        for deaths in settings.deaths:
            clock.schedule(deaths.at, self._kill_workers, deaths)
        for deploy in settings.deploys:
            clock.schedule(deploy.at, self._begin_deploy, deploy)

    def deliver_task(self, job: SimulatedJob) -> None:
        """Bring a job to the worker that owns its partition."""
        owner = self._owners[job.partition]
        if owner is None or not owner.alive:
            self._unowned.append(job)
        else:
            owner.receive_task(job)

    def all_workers(self) -> list[SimulatedWorker]:
        """Return the members, and the killed workers whose jobs have not returned."""
        return list((self.workers | self._dead).values())

    def jobs(self) -> Iterator[SimulatedJob]:
        """Yield all jobs that run, or whose tasks wait on a partition."""
        yield from self._unowned
        for worker in self.all_workers():
            yield from worker.running
            yield from worker.tasks

    def count_quota_owners(self) -> int:
        """Return the living workers that own a partition with quota for texts: they get jobs."""
        return sum(
            worker.alive and bool(worker.text.partitions) for worker in self.workers.values()
        )

    def rebalance(self, _: object = None) -> None:
        """Revoke all partitions: nothing is granted until they are assigned again."""
        self._rebalance += 1
        for worker in self.workers.values():
            self._save_checkpoints(worker)
            for limiter in worker.limiters:
                limiter.pause_grants()
        at = self._clock.now + self._recovery.rebalance_s
        self._clock.schedule(at, self._assign, self._rebalance)

    def _add_worker(self) -> SimulatedWorker:
        self._names += 1
        worker = SimulatedWorker(
            f"worker-{self._names:06}", self._clock, self._settings, self._providers, self._events
        )
        self.workers[worker.name] = worker
        return worker

    def _kill_workers(self, deaths: WorkerDeaths) -> None:
        living = [worker for worker in self.workers.values() if worker.alive]
        for worker in living[: deaths.count]:
            self._kill(worker)
            self._clock.schedule(self._clock.now + deaths.restart_s, self._join)

    def _kill(self, worker: SimulatedWorker) -> None:
        now = self._clock.now
        self._save_checkpoints(worker)
        worker.kill()
        self._dead[worker.name] = worker
        self._unowned.extend(worker.take_tasks())
        self._clock.schedule(now + self._recovery.session_s, self._miss, worker)
        self._clock.schedule(now + self._recovery.reclaim_s, self._reclaim, worker)

    def _miss(self, worker: SimulatedWorker) -> None:
        """Notice that a member is gone."""
        del self.workers[worker.name]
        self.rebalance()

    def _reclaim(self, worker: SimulatedWorker) -> None:
        """Return a dead worker's jobs to the queue."""
        for job in sorted(worker.running, key=lambda job: job.number):
            self._events.job_ended(job, RetryLater(delay_s=0.0, reason="worker dead"))
        worker.running.clear()
        del self._dead[worker.name]

    def _join(self, _: object) -> None:
        self._add_worker()
        self.rebalance()

    def _begin_deploy(self, deploy: Deploy) -> None:
        living = [worker for worker in self.workers.values() if worker.alive]
        for place, worker in enumerate(living):
            at = self._clock.now + place * deploy.every_s
            self._clock.schedule(at, self._replace, worker)

    def _replace(self, worker: SimulatedWorker) -> None:
        self._join(None)
        if worker.alive:
            worker.draining = True
            worker.report_change()
            self._clock.schedule(self._clock.now + self._recovery.drain_s, self._stop, worker)
            self._leave_when_idle(worker)

    def _stop(self, worker: SimulatedWorker) -> None:
        if worker.alive:
            worker.stop_calls()

    def _leave_when_idle(self, worker: SimulatedWorker) -> None:
        """Leave the group once no job runs, looked at once a second."""
        if not worker.alive:
            return
        if worker.running:
            self._clock.schedule(self._clock.now + 1.0, self._leave_when_idle, worker)
            return
        self._save_checkpoints(worker)
        worker.kill()
        self._unowned.extend(worker.take_tasks())
        del self.workers[worker.name]
        self.rebalance()

    def _assign(self, number: int) -> None:
        """Give each member its block of partitions, with the quota and the waiting tasks."""
        if number != self._rebalance or not self.workers:
            return
        assigned = divide_partitions(list(self.workers), self._settings.partitions)
        members = list(self.workers.values())
        layout = self._agree_on_layout(members)
        for worker in members:
            partitions = assigned[worker.name]
            self._unowned.extend(worker.take_tasks())
            for partition in partitions:
                self._owners[partition] = worker
            if worker.alive:
                self._restore_quota(worker, partitions, layout)
                worker.own_partitions(partitions)
        tasks, self._unowned = self._unowned, deque()
        for job in tasks:
            self.deliver_task(job)

    def _agree_on_layout(self, members: Sequence[SimulatedWorker]) -> QuotaLayout:
        calls = [
            {name: count for one in worker.limiters for name, count in one.carried_calls().items()}
            for worker in members
        ]
        return QuotaLayout(partitions=self._settings.partitions, calls=smallest_calls(calls))

    def _save_checkpoints(self, worker: SimulatedWorker) -> None:
        """Write the level of each owned partition's buckets, with an equal part for each."""
        now = self._clock.now
        if not worker.alive or not worker.partitions or worker.text.share is None:
            return
        levels = {
            f"{limiter.name}/{resource}": limiter.rules.level_of(resource, now)
            / len(limiter.partitions)
            for limiter in worker.limiters
            for resource in limiter.rules.resources
            if limiter.partitions
        }
        checkpoint = Checkpoint(owner=worker.name, at=now, levels=levels)
        for partition in worker.partitions:
            self._checkpoints[partition] = checkpoint

    def _restore_quota(
        self, worker: SimulatedWorker, partitions: Sequence[int], layout: QuotaLayout
    ) -> None:
        for limiter in worker.limiters:
            carrying = layout.carrying_partitions(limiter.carried_calls())
            owned = tuple(sorted(set(partitions).intersection(carrying)))
            part = limiter.spendable_part(len(carrying)) / max(len(carrying), 1)
            levels = self._restore_levels(worker, limiter, owned, part)
            limiter.assign_share(owned, len(owned) * part, levels)

    def _restore_levels(
        self, worker: SimulatedWorker, limiter: SimulatedLimiter, owned: Sequence[int], part: float
    ) -> Mapping[str, float]:
        """Sum the levels of the owned partitions, each continued from its last owner."""
        return {
            resource: sum(
                restore_level(
                    self._checkpoints.get(partition),
                    f"{limiter.name}/{resource}",
                    spent_since=0.0,
                    rate=limiter.rules.limit_of(resource) / 60 * part,
                    burst_s=self._settings.burst_s,
                    reader=worker.name,
                    now=self._clock.now,
                    skew_s=self._recovery.skew_s,
                )
                for partition in owned
            )
            for resource in limiter.rules.resources
        }
