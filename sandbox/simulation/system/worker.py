"""A simulated worker: claims jobs, runs their steps, and reports the slots that it offers."""

from collections import deque
from math import inf
from typing import Protocol, cast
from uuid import UUID

from sandbox.simulation.clock import VirtualClock
from sandbox.simulation.settings import IMAGE, READS, TEXT, WorldSettings
from sandbox.simulation.system.jobs import JobStep, ProviderCall, SimulatedJob
from sandbox.simulation.system.limiter import SimulatedLimiter
from sandbox.simulation.system.providers import CallStatus, ProviderModel
from services.generator.jobs.rules import FailJob, RetryLater, decide_retry
from services.generator.quota.concurrency import (
    QUEUE_S,
    PermitSupply,
    add_lead,
    count_accepted_jobs,
    count_overtaking_slots,
)
from services.generator.quota.held_jobs import HeldJobs
from services.generator.quota.rules import FIRST, PermitRank
from services.scheduler.dispatch.rules import WorkerOffer
from shared.domain.errors import Transient
from shared.domain.messages import Need
from shared.domain.reasons import WaitReason

_REPORT_EVERY_S = 1.0
_QUIET_REPORT_S = 4.0
"""While no job waits and nothing changes, so few reports say the same as one every second."""
_CREATION_WAIT_S = 5.0
_FIRST_PAUSE_S, _MAX_PAUSE_S, _PAUSE_GROWTH = 0.5, 5.0, 1.5
"""The pauses between reads of a prediction."""
_ONE_REQUEST, _ONE_READ = {"requests": 1.0}, {"reads": 1.0}


class JobEvents(Protocol):
    """What a worker announces."""

    def job_started(self, job: SimulatedJob, worker: str) -> None: ...

    def job_ended(self, job: SimulatedJob, outcome: RetryLater | FailJob | None) -> None:
        """`None`: the post is done."""

    def worker_reported(self, offer: WorkerOffer) -> None: ...

    def jobs_wait(self) -> bool:
        """Return whether jobs wait in the fair queue."""

    def money_billed(self, job: SimulatedJob, amount: int, *, saved: bool) -> None:
        """The provider bills an answer, which is lost unless it is saved."""


class SimulatedWorker:
    """Runs at most `slots` jobs at once. Further tasks wait on its partitions."""

    def __init__(
        self,
        name: str,
        clock: VirtualClock,
        settings: WorldSettings,
        providers: ProviderModel,
        events: JobEvents,
    ) -> None:
        self.name = name
        self.partitions: tuple[int, ...] = ()
        self._text_partitions: tuple[int, ...] = ()
        self._image_partitions: tuple[int, ...] = ()
        self.running: set[SimulatedJob] = set()
        self.tasks: deque[SimulatedJob] = deque()
        """Jobs on its partitions that wait for a slot."""
        self.held = HeldJobs(self.report_change, clock=lambda: clock.now)
        self.alive = True
        self.draining = False
        self._clock = clock
        self._settings = settings
        self._delays = settings.delays
        self._providers = providers
        self._events = events
        self._report_pending = False
        self._reported_at = clock.now
        self._reports = 0
        self._offered_slots = 0
        largest = {"tokens": settings.text_sizes.largest_tokens}
        self.text = self._limiter(TEXT, largest)
        self.image = self._limiter(IMAGE, {})
        self.reads = self._limiter(READS, {})
        self.limiters = (self.text, self.image, self.reads)
        self._clock.schedule(clock.now, self._report, self._reports)

    def _limiter(self, name: str, largest: dict[str, float]) -> SimulatedLimiter:
        grants = {TEXT: self._call_text, IMAGE: self._create_image, READS: self._read_image}
        return SimulatedLimiter(
            self._clock,
            name,
            self._providers.accounts[name],
            settings=self._settings,
            largest=largest,
            grant=grants[name],
            fail=self._fail_call,
        )

    def own_partitions(self, partitions: tuple[int, ...]) -> None:
        """Own these partitions from now on, whose quota the limiters own already."""
        self.partitions = partitions
        self._text_partitions = tuple(self.text.partitions)
        carrying = set(self.text.partitions).intersection(
            self.image.partitions, self.reads.partitions
        )
        self._image_partitions = tuple(sorted(carrying))
        self.report_change()

    # Tasks and slots

    def receive_task(self, job: SimulatedJob) -> None:
        """Claim a job, or keep its task until a slot is free."""
        if len(self.running) < self._settings.slots and not self.draining:
            self._start(job)
        else:
            self.tasks.append(job)

    def take_tasks(self) -> list[SimulatedJob]:
        """Give up the tasks that wait: their partitions get another owner."""
        tasks = list(self.tasks)
        self.tasks.clear()
        return tasks

    def kill(self) -> None:
        """Stop at once. The running jobs are lost until the scheduler finds the worker dead."""
        self.alive = False
        for limiter in self.limiters:
            limiter.abandon()

    def stop_calls(self) -> None:
        """Begin no more paid calls: the time to drain is over."""
        self.text.stop_grants()
        self.image.stop_grants()

    def _start(self, job: SimulatedJob) -> None:
        job.attempts += 1
        job.counted_attempts += 1
        job.error = None
        self.running.add(job)
        self.held.add(_key(job), needs_image=job.needs_image, is_first_attempt=job.attempts == 1)
        self._events.job_started(job, self.name)
        if job.saved == 0:
            self._begin_text(job, JobStep.OUTLINE)
        else:
            self._begin_branches(job)

    def _begin_branches(self, job: SimulatedJob) -> None:
        """Begin the article and the image, as far as they are not saved."""
        needs_text, needs_image = job.saved < 2, job.needs_image
        job.branches = needs_text + needs_image
        if needs_text:
            self._acquire_text(job, JobStep.ARTICLE)
        if needs_image:
            self.held.record_begin(_key(job))
            self.held.record_image_wait(_key(job))
            call = ProviderCall(job, JobStep.IMAGE, self)
            self.image.acquire(call, _ONE_REQUEST, PermitRank(False, job.permit_rank))

    def _begin_text(self, job: SimulatedJob, step: JobStep) -> None:
        job.branches = 1
        self._acquire_text(job, step)

    def _acquire_text(self, job: SimulatedJob, step: JobStep) -> None:
        rank = PermitRank(job.attempts == 1 and step is JobStep.OUTLINE, job.permit_rank)
        self.text.acquire(ProviderCall(job, step, self), self._providers.reserved[step], rank)

    # Texts

    def _call_text(self, call: ProviderCall) -> None:
        self.held.record_permit(_key(call.job), Need.TEXT, self._providers.reserved[call.step])
        arrives_at = call.requested_at = self._clock.now + self._delays.begin_s
        status, wait_s = self.text.provider.admit_call(
            self._providers.charged[call.step], arrives_at
        )
        if status is not CallStatus.SERVED:
            self._clock.schedule(arrives_at, self._refuse, (self.text, call, status, wait_s))
            return
        call.headers = self.text.provider.headers(arrives_at)
        answered_at = arrives_at + self._providers.text_latency(call.step)
        self._clock.schedule(answered_at + self._delays.save_s, self._answer_text, call)

    def _answer_text(self, call: ProviderCall) -> None:
        job, step, text = call.job, call.step, self.text
        self._events.money_billed(job, self._providers.text_cost(job, step), saved=self.alive)
        if not self.alive:
            return
        text.apply_headers(call)
        text.record_usage(call, self._providers.used[step])
        text.record_served(call)
        job.saved = step + 1
        text.grant_ready()
        if step is JobStep.OUTLINE:
            self._begin_branches(job)
        else:
            self._end_branch(job)

    # Images

    def _create_image(self, call: ProviderCall) -> None:
        self.held.record_permit(_key(call.job), Need.IMAGES, _ONE_REQUEST)
        self.held.record_image_permit(_key(call.job))
        arrives_at = call.requested_at = self._clock.now + self._delays.begin_s
        status, wait_s = self.image.provider.admit_call(_ONE_REQUEST, arrives_at)
        if status is not CallStatus.SERVED:
            self._clock.schedule(arrives_at, self._refuse, (self.image, call, status, wait_s))
            return
        call.ready_at = arrives_at + self._providers.image_latency()
        if call.ready_at <= arrives_at + _CREATION_WAIT_S:
            self._clock.schedule(call.ready_at + self._delays.file_s, self._save_image, call)
        else:
            call.read_at = _FIRST_PAUSE_S
            self._clock.schedule(arrives_at + _CREATION_WAIT_S + _FIRST_PAUSE_S, self._ask, call)

    def _ask(self, call: ProviderCall) -> None:
        """Wait for a permit to read the prediction."""
        if self.alive:
            call.step = JobStep.READ
            self.reads.acquire(call, _ONE_READ, FIRST)

    def _read_image(self, call: ProviderCall) -> None:
        arrives_at = self._clock.now + self._delays.read_s
        status, _ = self.reads.provider.admit_call(_ONE_READ, arrives_at)
        if status is CallStatus.SERVED and call.ready_at <= arrives_at:
            self._clock.schedule(arrives_at + self._delays.file_s, self._save_image, call)
            return
        call.read_at = min(call.read_at * _PAUSE_GROWTH, _MAX_PAUSE_S)
        self._clock.schedule(arrives_at + call.read_at, self._ask, call)

    def _save_image(self, call: ProviderCall) -> None:
        self._events.money_billed(call.job, self._settings.image_cost, saved=self.alive)
        if not self.alive:
            return
        self.image.record_served(call)
        self.image.grant_ready()
        call.job.needs_image = False
        self._end_branch(call.job)

    # Failures

    def _refuse(self, refused: tuple[SimulatedLimiter, ProviderCall, CallStatus, float]) -> None:
        limiter, call, status, wait_s = refused
        if not self.alive:
            return
        if status is CallStatus.THROTTLED:
            error = limiter.record_throttled(call, wait_s)
        else:
            error = limiter.record_failure(call)
        self._fail_call(call, error)
        limiter.grant_ready()

    def _fail_call(self, call: ProviderCall, error: Transient) -> None:
        call.job.error = call.job.error or error
        self._end_branch(call.job)

    def _end_branch(self, job: SimulatedJob) -> None:
        job.branches -= 1
        if job.branches == 0:
            self._end_attempt(job)

    def _end_attempt(self, job: SimulatedJob) -> None:
        self.running.remove(job)
        outcome = self._decide(job, job.error) if job.error is not None else None
        self.held.remove(_key(job), done=outcome is None)
        self._events.job_ended(job, outcome)
        if self.tasks and not self.draining:
            self._start(self.tasks.popleft())

    def _decide(self, job: SimulatedJob, error: Exception) -> RetryLater | FailJob:
        decision = decide_retry(
            error,
            attempt=job.attempts,
            counted_attempts=job.counted_attempts,
            max_attempts=self._settings.max_attempts,
            chance=self._providers.rng.random(),
            running_s=self._clock.now - (job.started_at or self._clock.now),
        )
        if isinstance(decision, RetryLater) and decision.blameless:
            job.counted_attempts -= 1
        return decision

    # Reports

    def report_change(self) -> None:
        """Report soon: the offer may have changed. Many changes make one report."""
        if self._report_pending or not self.alive:
            return
        self._report_pending = True
        self._reports += 1
        at = max(self._clock.now, self._reported_at + self._settings.report_every_s)
        self._clock.schedule(at, self._report, self._reports)

    def _report(self, number: int) -> None:
        if number != self._reports or not self.alive:
            return
        now, offer = self._clock.now, self.build_offer()
        is_quiet = 0 < offer.slots == self._offered_slots and not self._events.jobs_wait()
        self._report_pending, self._reported_at = False, now
        self._offered_slots = offer.slots
        self._events.worker_reported(offer)
        self._reports += 1
        pause = _QUIET_REPORT_S if is_quiet else _REPORT_EVERY_S
        self._clock.schedule(now + pause, self._report, self._reports)

    def build_offer(self) -> WorkerOffer:
        slots = self.count_offered_slots()
        stopped = self._find_stop(self.image)
        return WorkerOffer(
            worker=self.name,
            partitions=self.partitions,
            slots=slots,
            at=self._clock.now,
            text_partitions=self._text_partitions,
            image_partitions=self._image_partitions,
            most_image_jobs=self._count_image_jobs(stopped),
            images_stopped_by=stopped,
            overtaking_slots=min(slots and self._count_overtaking_slots(), self._settings.slots),
            lowest_waiting_rank=self._lowest_waiting_rank(),
        )

    def count_offered_slots(self) -> int:
        """Return the slots to offer to the scheduler, by the generator's rule."""
        if self.draining:
            return 0
        if self.text.is_cooling_long:
            return 0
        if self.text.circuit.is_open:
            return len(self.running) + 1 if self.text.is_probe_due else 0
        texts = self._text_supplies()
        accepted = count_accepted_jobs(
            held=self.held.total, unqueued=self._count_unqueued(), supplies=texts
        )
        return min(self._settings.slots, accepted)

    def _count_overtaking_slots(self) -> int:
        return count_overtaking_slots(
            held=self.held.total, unqueued=self._count_unqueued(), supplies=self._text_supplies()
        )

    def _lowest_waiting_rank(self) -> float:
        ranks = [supply.lowest_waiting_rank for supply in self._text_supplies() if supply.waiting]
        return min(ranks, default=-inf)

    def _text_supplies(self) -> list[PermitSupply]:
        return self.text.estimate_starts(self.held.mean_needs(Need.TEXT), QUEUE_S)

    def _count_unqueued(self) -> int:
        return self.held.without_permit - self.text.rules.queued_starts

    def _count_image_jobs(self, stopped: str | None) -> int | None:
        """Return the most jobs that need an image, as the scheduler reads it from a report."""
        if stopped is not None:
            return 1 if self.image.is_probe_due and not self.image.is_cooling_long else 0
        lead_s = self.held.image_lead_s
        images = self.image.estimate_starts(self.held.mean_needs(Need.IMAGES), lead_s + QUEUE_S)
        return count_accepted_jobs(
            held=self.held.image_jobs,
            unqueued=self.held.before_image,
            supplies=[add_lead(supply, lead_s) for supply in images],
        )

    def _find_stop(self, limiter: SimulatedLimiter) -> str | None:
        if limiter.circuit.is_open:
            return WaitReason.UNAVAILABLE
        return WaitReason.COOLING_DOWN if limiter.is_cooling_long else None


def _key(job: SimulatedJob) -> UUID:
    """Return the job's id. The rules only compare ids, and numbers are quicker than UUIDs."""
    return cast(UUID, job.number)
