"""Sends jobs whose turn it is to workers with credit, while the term reads and admits the next requests."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from services.scheduler import messages
from services.scheduler.dispatch import spans
from services.scheduler.dispatch.rules import WorkerCredit
from services.scheduler.fair_queue.queue import FairQueue, PickedJob
from services.scheduler.leadership.ordered_publisher import OrderedPublisher
from services.scheduler.repository import Row, SchedulerRepository
from shared.kafka.publisher import Outgoing

Picks = Sequence[tuple[UUID, int, PickedJob]]
"""Jobs with the partitions that they go to."""


class Dispatcher:
    """One leader's. `left` hears of every job that leaves the queue, and when; `counts` of what was done."""

    def __init__(
        self,
        *,
        store: SchedulerRepository,
        order: FairQueue,
        credit: WorkerCredit,
        pipe: OrderedPublisher,
        batch_size: int,
        left: Callable[[PickedJob, float], None],
        counts: Counter[str],
    ) -> None:
        self._store = store
        self._order = order
        self._credit = credit
        self._pipe = pipe
        self._batch_size = batch_size
        self._left = left
        self._counts = counts
        self._going: asyncio.Task[None] | None = None
        self._over = False

    def go_on(self, epoch: int) -> None:
        """Forward as long as there is work and credit, unless that is under way. Raises what the last time met."""
        if self._going is not None and self._going.done():
            self._going.result()
        if self._going is None or self._going.done():
            self._going = asyncio.create_task(self._forward(epoch), name="forwarding")

    async def rest(self) -> None:
        """Return when nothing is being forwarded: what is in flight is in PostgreSQL as it is in the order.
        Raises what forwarding met."""
        if self._going is not None:
            await self._going

    def end(self) -> None:
        """Forward nothing more from now on."""
        self._over = True

    async def abandon(self) -> None:
        """End without caring how."""
        self.end()
        if self._going is not None:
            await asyncio.gather(self._going, return_exceptions=True)

    def release(self, job: UUID, store: str) -> None:
        """A job that was picked is in flight no more, and has cost nothing."""
        self._order.settle(job, store, 0, ended=False)
        self._credit.settled(job)

    async def _forward(self, epoch: int) -> None:
        while not self._over and (picks := self._pick_batch()):
            began_ns = time.time_ns()
            jobs, partitions = (
                [job for job, _, _ in picks],
                [partition for _, partition, _ in picks],
            )
            marked = await self._store.forward(
                jobs, partitions, [pick.reserved for _, _, pick in picks], epoch
            )
            self._drop_unmarked(picks, marked)
            await self._pipe.send(_tasks(picks, marked, epoch=epoch, began_ns=began_ns))
            self._counts["forwarded"] += len(marked)

    def _pick_batch(self) -> Picks:
        now, picks = time.time(), list[tuple[UUID, int, PickedJob]]()
        while len(picks) < self._batch_size:
            partition = self._credit.best_partition(now)
            pick = self._order.pick(now) if partition is not None else None
            if pick is None or partition is None:
                break
            assert isinstance(pick.job, UUID)
            self._credit.forwarded(pick.job, partition)
            self._left(pick, now)
            picks.append((pick.job, partition, pick))
        return picks

    def _drop_unmarked(self, picks: Picks, marked: dict[UUID, Row]) -> None:
        """Jobs that PostgreSQL would not mark are no longer waiting: cancelled, say."""
        for job, _, pick in picks:
            if job not in marked:
                self.release(job, pick.store)


def _tasks(picks: Picks, marked: dict[UUID, Row], *, epoch: int, began_ns: int) -> list[Outgoing]:
    at = datetime.now(UTC)
    gone = [
        (job, pick.store, partition, marked[job]) for job, partition, pick in picks if job in marked
    ]
    traces = spans.record_dispatch_spans(gone, began_ns=began_ns)
    return [
        messages.task_message(
            job,
            store,
            partition,
            forward=row["forward_count"],
            epoch=epoch,
            at=at,
            traceparent=trace,
        )
        for (job, store, partition, row), trace in zip(gone, traces, strict=True)
    ]
