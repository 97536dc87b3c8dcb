"""Dispatches the next jobs to workers with credit, concurrently with admission."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from services.scheduler import messages
from services.scheduler.activity import ActivityCounts
from services.scheduler.dispatch import spans
from services.scheduler.dispatch.ordered_publisher import OrderedPublisher
from services.scheduler.dispatch.picking import pick_job
from services.scheduler.dispatch.recorder import DispatchRecorder
from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.fair_queue.queue import FairQueue, PickedJob
from services.scheduler.repository import Row, SchedulerRepository
from shared.domain.messages import WorkerReport
from shared.kafka.publisher import OutgoingMessage
from shared.kafka.topics import GENERATION

Picks = Sequence[tuple[UUID, int, PickedJob]]
"""Job ids with their target partitions."""


class Dispatcher:
    """The dispatcher of one leader session."""

    def __init__(
        self,
        *,
        repository: SchedulerRepository,
        queue: FairQueue,
        credit: WorkerCreditTracker,
        publisher: OrderedPublisher,
        recorder: DispatchRecorder,
        batch_size: int,
        activity: ActivityCounts,
    ) -> None:
        self._repository = repository
        self._queue = queue
        self._credit = credit
        self._publisher = publisher
        self._recorder = recorder
        self._batch_size = batch_size
        self._activity = activity
        self._running: asyncio.Task[None] | None = None
        self._stopped = False

    def start_dispatch(self) -> None:
        """Dispatch in the background while there is work and credit, unless dispatch already runs.

        Raises the error of the previous run.
        """
        if self._running is not None and self._running.done():
            self._running.result()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._dispatch_jobs(), name="dispatch")

    async def wait_idle(self) -> None:
        """Wait until dispatch is idle: PostgreSQL and the queue agree on the jobs in flight.

        Raises the error of the run.
        """
        if self._running is not None:
            await self._running

    def stop_dispatch(self) -> None:
        """Dispatch no further batch."""
        self._stopped = True

    async def abandon_dispatch(self) -> None:
        """Stop and ignore the outcome of the current batch."""
        self.stop_dispatch()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)

    async def apply_worker_reports(self, reports: Sequence[WorkerReport]) -> None:
        if not reports:
            return
        partitions, now = await self._publisher.count_partitions(GENERATION), time.time()
        for report in reports:
            self._credit.apply_offer(messages.worker_offer(report, now, partitions=partitions))

    def next_due_at(self) -> float | None:
        """Return when the next delayed job becomes due (seconds since the epoch)."""
        return self._queue.next_due_at(time.time())

    def release_job(self, job: UUID, store: str) -> None:
        """Remove a picked job from the jobs in flight at no cost."""
        self._queue.settle_job(job, store, 0, ended=False)
        self._credit.record_settlement(job)

    async def _dispatch_jobs(self) -> None:
        while not self._stopped and (picks := self._pick_batch()):
            began_ns = time.time_ns()
            dispatched = await self._repository.mark_dispatched(
                [job for job, _, _ in picks],
                [partition for _, partition, _ in picks],
                [pick.reserved for _, _, pick in picks],
            )
            self._release_unmarked(picks, dispatched)
            tasks = _task_messages(
                picks, dispatched, epoch=self._repository.epoch, began_ns=began_ns
            )
            await self._publisher.publish_batch(tasks)
            self._activity.count_jobs("dispatched", len(dispatched))

    def _pick_batch(self) -> Picks:
        now, picks = time.time(), list[tuple[UUID, int, PickedJob]]()
        self._queue.hold_image_jobs(self._credit.find_image_outage(now) is not None)
        while (
            len(picks) < self._batch_size
            and (found := pick_job(self._queue, self._credit, now)) is not None
        ):
            partition, pick = found
            assert isinstance(pick.job, UUID)
            self._credit.record_dispatch(pick.job, partition, needs_images=pick.needs_images)
            self._recorder.record_dispatch(pick, now)
            picks.append((pick.job, partition, pick))
        return picks

    def _release_unmarked(self, picks: Picks, dispatched: dict[UUID, Row]) -> None:
        """Release jobs that no longer wait in PostgreSQL, for example cancelled ones."""
        for job, _, pick in picks:
            if job not in dispatched:
                self.release_job(job, pick.store)


def _task_messages(
    picks: Picks, dispatched: dict[UUID, Row], *, epoch: int, began_ns: int
) -> list[OutgoingMessage]:
    at = datetime.now(UTC)
    jobs = [
        (job, pick, partition, dispatched[job])
        for job, partition, pick in picks
        if job in dispatched
    ]
    traces = spans.record_dispatch_spans(jobs, began_ns=began_ns)
    return [
        messages.task_message(
            job,
            pick.store,
            partition,
            permit_rank=pick.permit_rank,
            dispatch_count=row["forward_count"],
            epoch=epoch,
            at=at,
            traceparent=trace,
        )
        for (job, pick, partition, row), trace in zip(jobs, traces, strict=True)
    ]
