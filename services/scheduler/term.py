"""One term of leadership: admit, settle and forward, with the order in memory and its truth in PostgreSQL.

Whatever fails in a term ends it. The next one rebuilds the order from PostgreSQL, so nothing has to be undone.
"""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from services.scheduler.rules.credit import Credit, Offer
from services.scheduler.rules.order import FairOrder, Picked, Waiting
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import Row, SchedulerStore
from shared.job import ENDED, Status
from shared.kafka import Outgoing, Publisher
from shared.log import get_logger
from shared.messages import (
    BlogRequested,
    EventKind,
    GenerationTask,
    JobEvent,
    SchedulerReport,
    StoreQueue,
    Usage,
    WorkerReport,
)
from shared.topics import GENERATION, RESULTS

log = get_logger(__name__)

_STORES_REPORTED = 200
_SETTLING = {EventKind.ENDED, EventKind.RETRY}


class DeposedError(Exception):
    """Another scheduler has raised the epoch: this one may forward nothing more."""


class Term:
    """`epoch` fences every forward. Times given as `now` are seconds since the epoch."""

    def __init__(
        self, *, name: str, epoch: int, settings: SchedulerSettings, store: SchedulerStore, publisher: Publisher,
        credit: Credit,
    ) -> None:  # fmt: skip
        self.epoch = epoch
        self.counts: Counter[str] = Counter()
        """What was done since the counts were last taken, for the log."""
        self._name = name
        self._settings = settings
        self._store = store
        self._publisher = publisher
        self._credit = credit
        self._suspects: frozenset[UUID] = frozenset()
        self._order = FairOrder(
            cap=settings.max_per_instance, default_cost=settings.default_cost_nanousd, hard_cap=settings.hard_cap
        )

    async def rebuild(self) -> None:
        """Take up counters, backlog and jobs in flight from PostgreSQL. O(backlog)."""
        began = time.perf_counter()
        for row in await self._store.counters():
            self._order.restore(
                row["store"], weight=row["weight"], served=row["served_nanousd"], mean_cost=row["mean_cost_nanousd"],
                settled_jobs=row["settled_jobs"],
            )  # fmt: skip
        self._credit.forget_jobs()
        read = 0
        async for row in self._store.backlog():
            self._take_up(row)
            read += 1
            if read % 50_000 == 0:
                log.info("rebuilding the order", rows=read)
        log.info(
            "the order is rebuilt", rows=read, waiting=self._order.pending, in_flight=self._order.in_flight,
            seconds=round(time.perf_counter() - began, 3),
        )  # fmt: skip

    async def admit(self, requests: Sequence[BlogRequested]) -> None:
        """Make rows of the requests, in batches, and announce them. A repeat is announced again under the same id."""
        size = self._settings.batch_size
        for batch in (requests[start : start + size] for start in range(0, len(requests), size)):
            new = await self._store.admit(batch)
            now = time.time()
            for request in batch:
                if request.id in new:
                    self._order.add(_from_request(request), now)
            await self._publisher.publish_all([_admitted(request) for request in batch])
            self.counts["admitted"] += len(new)
            self.counts["repeated"] += len(batch) - len(new)

    async def settle(self, events: Sequence[JobEvent]) -> None:
        """Charge what ended or was given back; what is to be tried again returns to the queue."""
        await self._settle_jobs(list({event.job for event in events if event.kind in _SETTLING}))

    def hear(self, reports: Sequence[WorkerReport]) -> None:
        for report in reports:
            slots = 0 if report.draining else report.slots
            self._credit.hear(
                Offer(worker=report.worker, partitions=report.partitions, slots=slots, at=report.at.timestamp())
            )

    async def forward(self) -> None:
        """Send the jobs whose turn it is, as long as there is credit. `DeposedError` when the epoch has moved on."""
        while picks := self._pick_batch():
            jobs = [job for job, _, _ in picks]
            marked = await self._store.forward(
                jobs, [partition for _, partition, _ in picks], [pick.reserved for _, _, pick in picks], self.epoch
            )
            if len(marked) < len(jobs):
                await self._drop_unmarked(picks, marked)
            at = datetime.now(UTC)
            tasks = [
                Outgoing(
                    topic=GENERATION, key=str(job), partition=partition,
                    message=GenerationTask(
                        job=job, store=pick.store, forward=marked[job], epoch=self.epoch, forwarded_at=at
                    ),
                )
                for job, partition, pick in picks if job in marked
            ]  # fmt: skip
            await self._publisher.publish_all(tasks)
            self.counts["forwarded"] += len(tasks)

    async def sweep(self) -> None:
        """Bring back what was lost on the way, and compare the book of jobs in flight with PostgreSQL."""
        lost = await self._store.return_lost(self._settings.lease_grace_s)
        for row in lost:
            log.warning(
                "lease ran out: back to the queue", job=str(row["id"]), store=row["store"], worker=row["worker"]
            )
        unclaimed = await self._store.return_unclaimed(self._settings.forward_timeout_s)
        if unclaimed:
            log.warning("forwarded and not claimed: back to the queue", jobs=len(unclaimed))
        await self._publisher.publish_all([_lost(row) for row in lost])
        await self._settle_jobs([row["id"] for row in lost] + unclaimed)
        await self._compare()
        self._credit.forget_silent(time.time())

    async def save_lifts(self) -> None:
        """Save what changed in the counters apart from bills: at most a second of lifts is lost with a leader."""
        await self._store.save_counters(self._order.take_changes())

    def report(self) -> SchedulerReport:
        queues = sorted(self._order.queues(), key=lambda queue: -queue[1])
        oldest = self._order.oldest()
        return SchedulerReport(
            scheduler=self._name, at=datetime.now(UTC), epoch=self.epoch, pending=self._order.pending,
            in_flight=self._order.in_flight,
            oldest_pending_at=datetime.fromtimestamp(oldest, UTC) if oldest is not None else None,
            stores_waiting=sum(waiting > 0 for _, waiting, _, _, _ in queues),
            stores=tuple(
                StoreQueue(store=name, queued=waiting, in_flight=flying, served_nanousd=served, weight=weight)
                for name, waiting, flying, served, weight in queues[:_STORES_REPORTED]
            ),
        )  # fmt: skip

    def next_due(self) -> float | None:
        return self._order.next_due()

    def _take_up(self, row: Row) -> None:
        if row["forwarded"]:
            self._order.adopt(row["id"], row["store"], row["estimate_nanousd"])
            self._credit.forwarded(row["id"], row["forwarded_partition"])
        else:
            self._order.add(_from_row(row), time.time())

    def _pick_batch(self) -> list[tuple[UUID, int, Picked]]:
        now, picks = time.time(), list[tuple[UUID, int, Picked]]()
        while len(picks) < self._settings.batch_size:
            partition = self._credit.best_partition(now)
            pick = self._order.pick(now) if partition is not None else None
            if pick is None or partition is None:
                break
            assert isinstance(pick.job, UUID)
            self._credit.forwarded(pick.job, partition)
            picks.append((pick.job, partition, pick))
        return picks

    async def _drop_unmarked(self, picks: Sequence[tuple[UUID, int, Picked]], marked: dict[UUID, int]) -> None:
        """Jobs that PostgreSQL would not mark are cancelled, or we no longer lead."""
        leader = await self._store.epoch()
        if leader != self.epoch:
            raise DeposedError(f"epoch {leader} leads, not {self.epoch}")
        for job, _, pick in picks:
            if job not in marked:
                self._order.settle(job, pick.store, 0, ended=True)
                self._credit.settled(job)

    async def _settle_jobs(self, jobs: Sequence[UUID]) -> None:
        if not jobs:
            return
        now = time.time()
        for row in await self._store.settle(jobs):
            self._order.settle(row["id"], row["store"], row["spent"], ended=row["status"] in ENDED)
            self._credit.settled(row["id"])
            if row["status"] == Status.PENDING:
                self._order.add(_from_row(row), now)
            self.counts["settled"] += 1
        await self._store.save_counters(self._order.take_changes())

    async def _compare(self) -> None:
        """Repair what differs from PostgreSQL in two comparisons in a row (once may be an event on its way)."""
        truth, book = await self._store.in_flight(), self._order.flying()
        differing = frozenset(job for job in truth.keys() ^ book.keys() if isinstance(job, UUID))
        drifted = differing & self._suspects
        self._suspects = differing
        if not drifted:
            return
        log.error("slots held and jobs in flight differ: repaired", jobs=len(drifted))
        self.counts["drifted"] += len(drifted)
        for job in drifted & truth.keys():
            self._order.adopt(job, truth[job]["store"], truth[job]["estimate_nanousd"])
            self._credit.forwarded(job, truth[job]["forwarded_partition"])
        await self._settle_jobs([job for job in drifted if job in book])


def _from_request(request: BlogRequested) -> Waiting:
    return Waiting(
        job=request.id, store=request.store, created_at=request.created_at.timestamp(), priority=request.priority,
        not_before=request.run_at.timestamp() if request.run_at else 0,
    )  # fmt: skip


def _from_row(row: Row) -> Waiting:
    return Waiting(
        job=row["id"], store=row["store"], created_at=row["created_at"].timestamp(), priority=row["priority"],
        not_before=row["not_before"].timestamp() if row["not_before"] else 0,
    )  # fmt: skip


def _admitted(request: BlogRequested) -> Outgoing:
    event = JobEvent(
        job=request.id, store=request.store, kind=EventKind.ADMITTED, status=Status.PENDING, attempt=0,
        at=datetime.now(UTC), created_at=request.created_at, not_before=request.run_at,
    )  # fmt: skip
    return Outgoing(topic=RESULTS, key=request.store, message=event)


def _lost(row: Row) -> Outgoing:
    usage = Usage(
        input_tokens=row["input_tokens"], output_tokens=row["output_tokens"], images=row["images"],
        cost_nanousd=row["cost_nanousd"],
    )  # fmt: skip
    event = JobEvent(
        job=row["id"], store=row["store"], kind=EventKind.RETRY, status=Status.PENDING, attempt=row["attempt"],
        at=datetime.now(UTC), created_at=row["created_at"], started_at=row["started_at"], worker=row["worker"],
        usage=usage, error="the worker's lease ran out",
    )  # fmt: skip
    return Outgoing(topic=RESULTS, key=row["store"], message=event)
