"""Runs a job from its task to its outcome: claim, run the steps, decide, record, publish.

A task is finished when the job's outcome is in PostgreSQL and published, or when the job no longer
concerns this worker.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from aiokafka.errors import KafkaError

from services.generator.blog.steps import BlogSteps
from services.generator.jobs.events import JobEventPublisher, build_event
from services.generator.jobs.repository import (
    BlogPost,
    GenerationRepository,
    Lease,
    LeaseLostError,
)
from services.generator.jobs.rules import FailJob, RetryLater, decide_retry
from services.generator.jobs.status import WorkerStatus
from shared.domain.errors import Permanent, Transient
from shared.domain.job import ENDED, Status
from shared.domain.job_events import event_from_row
from shared.domain.messages import EventKind, GenerationTask, JobEvent
from shared.observability import tracing
from shared.observability.log import get_logger
from shared.runtime.lifecycle import wait_for_event
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)

_MAX_RECHECK_PAUSE_S = 5.0
_RETRY_PAUSE_S = 1.0
_REQUEUE_WITHIN_S = 10.0


class JobRequeuedError(Exception):
    """The worker stops: the job returns to the queue and may start at once on another worker."""


@dataclass(slots=True, eq=False)
class _RunningJob:
    task: asyncio.Task[BlogPost]
    ended: asyncio.Event


class Worker:
    """Runs at most `slots` jobs at once, and keeps `status` up to date."""

    def __init__(
        self,
        *,
        slots: int,
        max_attempts: int,
        repository: GenerationRepository,
        steps: BlogSteps,
        events: JobEventPublisher,
        status: WorkerStatus,
        rng: random.Random,
    ) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._max_attempts = max_attempts
        self._repository = repository
        self._steps = steps
        self._events = events
        self._status = status
        self._rng = rng
        self._running: dict[UUID, _RunningJob] = {}
        self._stopping = asyncio.Event()
        self._requeueing = False
        self.waiting = 0
        """Tasks that wait for a job that this or another worker runs. They take no slot."""

    async def process_task(self, task: GenerationTask) -> bool:
        """Run the task's job. Returns false if the worker stops before the task is finished.

        Retries while PostgreSQL or Kafka is unavailable.
        """
        while not self._stopping.is_set():
            running = self._running.get(task.job)
            if running is not None:  # a rebalance delivered the task of a running job again
                await self._wait_without_slot(running.ended.wait())
                continue
            try:
                wait_s = await self._try_task(task)
            except (*UNAVAILABLE_ERRORS, KafkaError) as error:
                log.warning(
                    "dependency unavailable, retrying",
                    job=str(task.job),
                    operation="claim job",
                    reason=f"{type(error).__name__}: {error}",
                )
                await wait_for_event(self._stopping, _RETRY_PAUSE_S)
                continue
            if wait_s is None:
                return True
            await self._wait_without_slot(wait_for_event(self._stopping, wait_s))
        return False

    async def extend_leases(self) -> None:
        """Extend the leases of all running jobs; stop the jobs whose lease is lost."""
        jobs = list(self._running)
        if jobs:
            self._stop_jobs(set(jobs) - await self._repository.extend_leases(jobs))

    async def stop_cancelled_jobs(self) -> None:
        if self._running:
            self._stop_jobs(await self._repository.find_cancelled(list(self._running)))

    def _stop_jobs(self, jobs: Iterable[UUID]) -> None:
        """Stop jobs; one with a paid call in progress continues until the call is answered.

        Such a job cannot begin another call.
        """
        for job in jobs:
            running = self._running.get(job)
            if (
                running is not None
                and not running.task.done()
                and not self._steps.has_paid_call(job)
            ):
                log.warning("job stopped: cancelled, or its lease is lost", job=str(job))
                running.task.cancel()

    async def drain(
        self, seconds: float, *, stop_calls: Callable[[], None], calls_s: float
    ) -> None:
        """Let running jobs continue for `seconds`, then return the rest to the queue.

        After that time `stop_calls` prevents new provider calls, and the calls in progress have
        `calls_s` seconds to end.
        """
        self._stopping.set()
        await self._wait_until_idle(seconds)
        if self._running:
            log.info("drain: waiting for paid calls, requeueing the rest", jobs=len(self._running))
            stop_calls()
            await self._wait_until_idle(calls_s)
        self._requeueing = True
        self._events.stop_retrying()
        for entry in list(self._running.values()):
            entry.task.cancel()
        await self._wait_until_idle(_REQUEUE_WITHIN_S)
        if self._running:
            log.error("jobs not requeued: their leases will expire", jobs=len(self._running))

    async def _wait_until_idle(self, within_s: float) -> None:
        waits = [asyncio.create_task(entry.ended.wait()) for entry in self._running.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=within_s)
            for pending in late:
                pending.cancel()

    async def _wait_without_slot(self, waiting: Awaitable[object]) -> None:
        self.waiting += 1
        try:
            await waiting
        finally:
            self.waiting -= 1

    async def _try_task(self, task: GenerationTask) -> float | None:
        """Return `None` when the task is finished, else the seconds to wait before a new try."""
        async with self._slots:
            if self._stopping.is_set():
                return 0.0
            began_ns = time.time_ns()
            lease = await self._repository.claim_job(task.job, permit_rank=task.permit_rank)
            if lease is not None and await self._run_traced(lease, task, began_ns):
                return None
        wait_s = await self._find_recheck_pause(task)
        if wait_s is None:
            self._status.stale_tasks += 1
        return wait_s

    async def _run_traced(self, lease: Lease, task: GenerationTask, began_ns: int) -> bool:
        attributes = tracing.job_attributes(lease.job, lease.request.store) | {
            "attempt": lease.attempt
        }
        parent = task.traceparent or lease.request.traceparent
        state = lease.request.tracestate
        with tracing.start_span("attempt", parent=parent, state=state, attributes=attributes):
            tracing.record_span("claim", began_ns=began_ns)
            if self._stopping.is_set():  # the drain began while the job was being claimed
                event = await self._record_outcome(lease, JobRequeuedError())
                await self._events.publish_outcome(event)
                return True
            return await self._run_job(lease)

    async def _find_recheck_pause(self, task: GenerationTask) -> float | None:
        """Return the seconds until an unclaimed job is checked again; `None`: task finished."""
        row = await self._repository.find_job(task.job)
        if row is None or (row["status"] == Status.PENDING and not row["forwarded"]):
            return None  # the job was returned to the queue: this task is stale
        if row["status"] in ENDED:
            await self._events.publish(event_from_row(row))
            return None
        if row["status"] == Status.PROCESSING:  # another worker holds the lease: wait for the end
            return min(max(row["lease_left_s"] or 0.0, 0.5), _MAX_RECHECK_PAUSE_S)
        return _RETRY_PAUSE_S

    async def _run_job(self, lease: Lease) -> bool:
        """Run a leased job until its outcome is published. Returns false if the lease is lost."""
        entry = self._running[lease.job] = _RunningJob(
            task=asyncio.create_task(self._run_steps(lease), name=f"job {lease.job}"),
            ended=asyncio.Event(),
        )
        self._status.held.add(
            lease.job, needs_image=lease.request.images > 0, is_first_attempt=lease.attempt == 1
        )
        try:
            await self._events.publish_started(lease)
            outcome = await self._wait_for_outcome(entry.task)
            await self._events.publish_outcome(await self._record_outcome(lease, outcome))
        except LeaseLostError:
            log.warning(
                "lease lost: outcome not written", job=str(lease.job), store=lease.request.store
            )
            await self._release_if_cancelled(lease)
            return False
        else:
            return True
        finally:
            entry.task.cancel()
            del self._running[lease.job]
            entry.ended.set()
            self._status.held.remove(lease.job, done=_has_result(entry.task))

    async def _release_if_cancelled(self, lease: Lease) -> None:
        """Publish the end of a cancelled job again: its last call may have been billed later."""
        row = await self._repository.release_cancelled(lease)
        if row is not None:
            await self._events.publish_outcome(event_from_row(row))

    async def _run_steps(self, lease: Lease) -> BlogPost:
        if lease.counted_attempts > self._max_attempts:
            raise Permanent(
                f"gave up after {lease.counted_attempts - 1} attempts:"
                " the last one ended with its worker",
                code="workers-lost",
            )
        return await self._steps.write_post(lease)

    async def _wait_for_outcome(self, task: asyncio.Task[BlogPost]) -> BlogPost | Exception:
        await asyncio.wait({task})
        if task.cancelled():
            if self._requeueing:
                return JobRequeuedError()
            raise LeaseLostError("cancelled, or leased to another worker")
        error = task.exception()
        if isinstance(error, LeaseLostError):
            raise error
        if error is not None and not isinstance(error, Exception):
            raise error
        return error or task.result()

    async def _record_outcome(self, lease: Lease, outcome: BlogPost | Exception) -> JobEvent:
        """Write the outcome to PostgreSQL and return its event."""
        job_log = log.bind(job=str(lease.job), store=lease.request.store, attempt=lease.attempt)
        if isinstance(outcome, BlogPost):
            end = await self._repository.complete_job(lease, outcome)
            self._status.done += 1
            job_log.info("job done", cost_usd=end.usage.cost_nanousd / 1e9)
            return build_event(lease, EventKind.ENDED, Status.DONE, end=end)
        decision = self._decide(lease, outcome)
        if isinstance(decision, RetryLater):
            end = await self._repository.requeue_job(
                lease,
                delay_s=decision.delay_s,
                reason=decision.reason,
                blameless=decision.blameless,
            )
            job_log.warning(
                "job requeued", seconds=round(decision.delay_s, 1), reason=decision.reason
            )
            return build_event(
                lease, EventKind.RETRY, Status.PENDING, end=end, error=decision.reason
            )
        end = await self._repository.fail_job(lease, code=decision.code, reason=decision.reason)
        self._status.failed += 1
        job_log.error("job failed", code=decision.code, reason=decision.reason)
        return build_event(lease, EventKind.ENDED, Status.FAILED, end=end, error=decision.reason)

    def _decide(self, lease: Lease, error: Exception) -> RetryLater | FailJob:
        if isinstance(error, JobRequeuedError):
            return RetryLater(
                delay_s=0.0, reason="the worker stopped and requeued the job", blameless=True
            )
        if isinstance(error, UNAVAILABLE_ERRORS):
            error = Transient(
                f"the image folder or PostgreSQL was unavailable: {error}", code="away"
            )
        if not isinstance(error, Transient | Permanent):
            log.error("attempt ended with a bug", job=str(lease.job), exc_info=error)
        return decide_retry(
            error,
            attempt=lease.attempt,
            counted_attempts=lease.counted_attempts,
            max_attempts=self._max_attempts,
            chance=self._rng.random(),
            running_s=(datetime.now(UTC) - lease.started_at).total_seconds(),
        )


def _has_result(task: asyncio.Task[BlogPost]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
