"""One job from its message to its outcome: claim, attempt, judge, apply, tell.

`process_task` returns when the message may count as finished: the outcome is in PostgreSQL and published, or it is none of
our business any more.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from aiokafka.errors import KafkaError

from services.generator.blog.steps import BlogSteps
from services.generator.jobs.events import event_of
from services.generator.jobs.repository import Lease, LeaseLostError, GenerationRepository, BlogPost
from services.generator.jobs.rules import RetryLater, FailJob, decide_retry
from shared.domain.errors import Permanent, Transient
from shared.domain.job import ENDED, Status, Step
from shared.domain.job_events import event_from_row
from shared.domain.messages import EventKind, GenerationTask, JobEvent
from shared.kafka.publisher import Outgoing, Publisher
from shared.kafka.topics import RESULTS
from shared.observability import tracing
from shared.observability.log import get_logger
from shared.runtime.lifecycle import wait_for_event
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)

_LOOK_AGAIN_S = 5.0
_AWAY_PAUSE_S = 1.0
_HAND_BACK_S = 10.0


class JobRequeuedError(Exception):
    """The worker stops: its job goes back to the queue and begins at once on another."""


@dataclass(slots=True, eq=False)
class _RunningJob:
    task: asyncio.Task[BlogPost]
    ended: asyncio.Event


class Worker:
    """Runs at most `slots` jobs at once. `changed` is called when a slot is taken or given back."""

    def __init__(
        self,
        *,
        name: str,
        slots: int,
        max_attempts: int,
        store: GenerationRepository,
        publisher: Publisher,
        changed: Callable[[], None],
        rng: random.Random,
    ) -> None:
        self._name = name
        self._slots = asyncio.Semaphore(slots)
        self._max_attempts = max_attempts
        self._store = store
        self._publisher = publisher
        self._changed = changed
        self._rng = rng
        self._running: dict[UUID, _RunningJob] = {}
        self._stopping = asyncio.Event()
        self._handing_back = False
        self.steps: BlogSteps
        """Set by whoever builds the worker: the steps tell their events through it."""
        self.done = self.failed = 0
        self.refused = 0
        """Messages of jobs that had been done, or called back, when we came to claim them: duplicates, mostly."""
        self.waiting = 0
        """Messages that wait for what another has claimed, or we have: they take no slot."""

    @property
    def running(self) -> int:
        return len(self._running)

    async def process_task(self, task: GenerationTask) -> bool:
        """Work on a job until its message is finished; false when the worker stops before that.

        PostgreSQL or Kafka being away only makes it wait.
        """
        while not self._stopping.is_set():
            mine = self._running.get(task.job)
            if (
                mine is not None
            ):  # a rebalance brought the message of a job that this worker runs already
                await self._aside(mine.ended.wait())
                continue
            try:
                wait_s = await self._try(task)
            except (*UNAVAILABLE_ERRORS, KafkaError) as error:
                log.warning(
                    "waiting: something is away",
                    job=str(task.job),
                    reason=f"{type(error).__name__}: {error}",
                )
                await wait_for_event(self._stopping, _AWAY_PAUSE_S)
                continue
            if wait_s is None:
                return True
            await self._aside(wait_for_event(self._stopping, wait_s))
        return False

    async def extend_leases(self) -> None:
        """Prolong the leases of all running jobs; stop those that are no longer ours."""
        jobs = list(self._running)
        if jobs:
            self._stop(set(jobs) - await self._store.extend_leases(jobs))

    async def stop_cancelled_jobs(self) -> None:
        """Stop the jobs that somebody has cancelled."""
        if self._running:
            self._stop(await self._store.cancelled(list(self._running)))

    def _stop(self, jobs: Iterable[UUID]) -> None:
        """One that is paying for a call goes on until it has the answer, and may begin no other."""
        for job in jobs:
            running = self._running.get(job)
            if running is not None and not running.task.done() and not self.steps.has_paid_call(job):
                log.warning("cancelled, or no longer ours: stopped working on it", job=str(job))
                running.task.cancel()

    async def drain(self, seconds: float, *, refuse: Callable[[], None], calls_s: float) -> None:
        """Let running jobs go on for a while, then hand back the rest: no call begins any more (`refuse`), and those
        that are being paid for have `calls_s` seconds to end."""
        self._stopping.set()
        await self._all_ended(seconds)
        if self._running:
            log.info(
                "calls that are paid for are waited for; all else is handed back",
                jobs=len(self._running),
            )
            refuse()
            await self._all_ended(calls_s)
        self._handing_back = True
        for entry in list(self._running.values()):
            entry.task.cancel()
        await self._all_ended(_HAND_BACK_S)
        if self._running:
            log.error(
                "jobs could not be handed back: their leases will run out", jobs=len(self._running)
            )

    async def _all_ended(self, within_s: float) -> None:
        waits = [asyncio.create_task(entry.ended.wait()) for entry in self._running.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=within_s)
            for pending in late:
                pending.cancel()

    async def _aside(self, waiting: Awaitable[object]) -> None:
        self.waiting += 1
        try:
            await waiting
        finally:
            self.waiting -= 1

    async def tell_step(self, claim: Lease, step: Step, limit_wait_s: float) -> None:
        """Announce a step that was paid for, and how long its call waited for the limits."""
        event = event_of(claim, EventKind.STEP_DONE, Status.PROCESSING, step=step)
        await self._tell_progress(replace(event, limit_wait_s=round(limit_wait_s, 3)))

    async def _try(self, task: GenerationTask) -> float | None:
        """None when the message is finished, else the seconds after which to look again."""
        async with self._slots:
            if self._stopping.is_set():
                return 0.0
            began_ns = time.time_ns()
            claim = await self._store.claim_job(task.job)
            if claim is not None:
                about = tracing.job_attributes(claim.job, claim.request.store) | {
                    "attempt": claim.attempt
                }
                parent, state = (
                    task.traceparent or claim.request.traceparent,
                    claim.request.tracestate,
                )
                with tracing.span("attempt", parent=parent, state=state, attributes=about):
                    tracing.record_span("claim", began_ns=began_ns)
                    if await self._run_unless_stopping(claim):
                        return None
        wait_s = await self._why_not(task)
        if wait_s is None:
            self.refused += 1
        return wait_s

    async def _run_unless_stopping(self, claim: Lease) -> bool:
        if self._stopping.is_set():  # since the claim was asked for: nothing is begun any more
            await self._tell_outcome(await self._apply(claim, JobRequeuedError()))
            return True
        return await self._run(claim)

    async def _why_not(self, task: GenerationTask) -> float | None:
        row = await self._store.find_job(task.job)
        if row is None or (row["status"] == Status.PENDING and not row["forwarded"]):
            return None  # a stale message: the job was called back since
        if row["status"] in ENDED:
            await self._publish(event_from_row(row))
            return None
        if row["status"] == Status.PROCESSING:  # somebody else's claim: wait for the outcome
            return min(max(row["lease_left_s"] or 0.0, 0.5), _LOOK_AGAIN_S)
        return _AWAY_PAUSE_S

    async def _run(self, claim: Lease) -> bool:
        """Work on a claimed job until its outcome is told; false when the claim was lost on the way."""
        entry = self._running[claim.job] = _RunningJob(
            task=asyncio.create_task(self._attempt(claim), name=f"job {claim.job}"),
            ended=asyncio.Event(),
        )
        self._changed()
        try:
            started = event_of(claim, EventKind.STARTED, Status.PROCESSING)
            await self._tell_progress(replace(started, forwarded_at=claim.forwarded_at))
            await self._tell_outcome(await self._apply(claim, await self._outcome(entry.task)))
        except LeaseLostError:
            log.warning(
                "the claim is no longer ours: nothing written",
                job=str(claim.job),
                store=claim.request.store,
            )
            await self._let_go(claim)
            return False
        else:
            return True
        finally:
            entry.task.cancel()
            del self._running[claim.job]
            entry.ended.set()
            self._changed()

    async def _let_go(self, claim: Lease) -> None:
        """A cancelled job's last call may have been billed after the cancellation was told: the end is told again."""
        row = await self._store.release_cancelled(claim)
        if row is not None:
            await self._tell_outcome(event_from_row(row))

    async def _attempt(self, claim: Lease) -> BlogPost:
        if claim.tries > self._max_attempts:
            raise Permanent(
                f"gave up after {claim.tries - 1} attempts: the last one ended with its worker",
                code="workers-lost",
            )
        return await self.steps.run(claim)

    async def _outcome(self, task: asyncio.Task[BlogPost]) -> BlogPost | Exception:
        await asyncio.wait({task})
        if task.cancelled():
            if self._handing_back:
                return JobRequeuedError()
            raise LeaseLostError("cancelled, or given to another")
        error = task.exception()
        if isinstance(error, LeaseLostError):
            raise error
        if error is not None and not isinstance(error, Exception):
            raise error
        return error or task.result()

    async def _apply(self, claim: Lease, outcome: BlogPost | Exception) -> JobEvent:
        bound = log.bind(job=str(claim.job), store=claim.request.store, attempt=claim.attempt)
        if isinstance(outcome, BlogPost):
            ended = await self._store.complete_job(claim, outcome)
            self.done += 1
            bound.info("blog done", cost_usd=ended.usage.cost_nanousd / 1e9)
            return event_of(claim, EventKind.ENDED, Status.DONE, ended=ended)
        verdict = self._judge(claim, outcome)
        if isinstance(verdict, RetryLater):
            ended = await self._store.requeue_job(
                claim, delay_s=verdict.delay_s, reason=verdict.reason, blameless=verdict.blameless
            )
            bound.warning(
                "blog will be tried again", seconds=round(verdict.delay_s, 1), reason=verdict.reason
            )
            return event_of(
                claim, EventKind.RETRY, Status.PENDING, ended=ended, error=verdict.reason
            )
        ended = await self._store.fail_job(claim, code=verdict.code, reason=verdict.reason)
        self.failed += 1
        bound.error("blog failed", code=verdict.code, reason=verdict.reason)
        return event_of(claim, EventKind.ENDED, Status.FAILED, ended=ended, error=verdict.reason)

    def _judge(self, claim: Lease, error: Exception) -> RetryLater | FailJob:
        if isinstance(error, JobRequeuedError):
            return RetryLater(
                delay_s=0.0, reason="the worker stopped and handed it back", blameless=True
            )
        if isinstance(error, UNAVAILABLE_ERRORS):
            error = Transient(f"the image folder or PostgreSQL was away: {error}", code="away")
        if not isinstance(error, Transient | Permanent):
            log.error("an attempt ended in a fault of ours", job=str(claim.job), exc_info=error)
        return decide_retry(
            error, attempt=claim.tries, max_attempts=self._max_attempts, chance=self._rng.random()
        )

    async def _tell_progress(self, event: JobEvent) -> None:
        """Only an eye on progress: it may get lost, the row is the truth."""
        try:
            await self._publish(event)
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "progress was not published",
                job=str(event.job),
                reason=f"{type(error).__name__}: {error}",
            )

    async def _tell_outcome(self, event: JobEvent) -> None:
        """Tell it, and go on trying while Kafka is away, unless the worker is about to end: the message comes again."""
        while True:
            try:
                await self._publish(event)
            except (KafkaError, TimeoutError) as error:
                if self._handing_back:
                    raise
                log.warning(
                    "waiting to publish an outcome",
                    job=str(event.job),
                    reason=f"{type(error).__name__}: {error}",
                )
                await asyncio.sleep(_AWAY_PAUSE_S)
            else:
                return

    async def _publish(self, event: JobEvent) -> None:
        await self._publisher.publish(Outgoing(topic=RESULTS, key=event.store, message=event))
