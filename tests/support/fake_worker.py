"""A fake worker: it claims jobs as the real one does, calls no provider, and ends them at once."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from shared.domain.job import Status
from shared.domain.messages import EventKind, GenerationTask, JobEvent, WorkerReport
from shared.kafka import clients
from shared.kafka.publisher import OutgoingMessage
from shared.kafka.topics import GENERATION, RESULTS, WORKERS
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend

_CLAIM_AND_END = """
UPDATE blog_generations AS job
   SET status = 'DONE', attempt = attempt + 1, worker = 'fake', started_at = now(),
       finished_at = now(), cost_nanousd = ended.cost
  FROM unnest($1::uuid[], $2::bigint[]) AS ended (id, cost)
 WHERE job.id = ended.id AND job.status = 'PENDING' AND job.forwarded_at IS NOT NULL
RETURNING job.id, job.instance_id AS store, job.attempt, job.created_at, job.cost_nanousd
"""


class FakeWorker:
    """Ends jobs. `done` lists them in the order of their ends, with stores and costs."""

    def __init__(self, backend: Backend, pool: asyncpg.Pool, *, slots: int, pause_s: float) -> None:
        self.done: list[tuple[UUID, str, int]] = []
        self.tasks: Counter[UUID] = Counter()
        self._backend = backend
        self._pool = pool
        self._slots = slots
        self._pause_s = pause_s
        self._random = random.Random(1)

    async def report(self) -> None:
        now = datetime.now(UTC)
        report = WorkerReport(
            worker="fake",
            at=now,
            started_at=now,
            partitions=tuple(range(24)),
            slots=self._slots,
            running=0,
        )
        await self._backend.publish(WORKERS, "fake", report)

    async def keep_reporting(self) -> None:
        while True:
            await self.report()
            await asyncio.sleep(0.5)

    async def process_tasks(self) -> None:
        """Consume tasks and end their jobs until cancelled."""
        consumer = clients.create_consumer(
            self._backend.settings,
            clients.namespace(self._backend.settings).topic(GENERATION),
            group_id=None,
        )
        await consumer.start()
        try:
            while True:
                batches = await consumer.getmany(timeout_ms=200, max_records=self._slots)
                messages = [
                    clients.decode_record(record)
                    for records in batches.values()
                    for record in records
                ]
                await asyncio.sleep(self._pause_s)
                await self._end(
                    [message for message in messages if isinstance(message, GenerationTask)]
                )
        finally:
            await consumer.stop()

    async def _end(self, tasks: list[GenerationTask]) -> None:
        self.tasks.update(task.job for task in tasks)
        jobs = list({task.job for task in tasks})
        costs = [self._random.randrange(2_000_000, 8_000_000) for _ in jobs]
        rows = await self._pool.fetch(_CLAIM_AND_END, jobs, costs) if jobs else []
        events = [_ended(row) for row in rows]
        await self._backend.publisher.publish_all(
            [OutgoingMessage(topic=RESULTS, key=event.store, message=event) for event in events]
        )
        self.done += [(row["id"], row["store"], row["cost_nanousd"]) for row in rows]


def _ended(row: asyncpg.Record) -> JobEvent:
    return JobEvent(
        job=row["id"],
        store=row["store"],
        kind=EventKind.ENDED,
        status=Status.DONE,
        attempt=row["attempt"],
        at=datetime.now(UTC),
        created_at=row["created_at"],
    )


@asynccontextmanager
async def start_fake_worker(
    backend: Backend, database: str, *, slots: int, pause_s: float = 0.0
) -> AsyncIterator[FakeWorker]:
    """Start a fake worker for a block; every batch of jobs takes it `pause_s` seconds."""
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    async with await open_pool(settings, name="fake") as pool:
        worker = FakeWorker(backend, pool, slots=slots, pause_s=pause_s)
        loops = (worker.keep_reporting(), worker.process_tasks())
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            yield worker
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            faults = [one for one in outcomes if not isinstance(one, asyncio.CancelledError | None)]
            assert not faults, faults
