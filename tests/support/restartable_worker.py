"""A worker that a test stops or kills during a call and restarts, with a scripted provider.

The generator's own `Worker`, `BlogSteps` and `GenerationRepository` run the jobs. Scripted are the
provider and Kafka's consumer group: a new instance receives the tasks that earlier instances have
not finished. Jobs have no images.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, cast

import asyncpg

from services.generator.blog.image_storage import ImageStorage
from services.generator.blog.steps import BlogSteps
from services.generator.jobs.concurrency import AdaptiveConcurrency
from services.generator.jobs.events import JobEventPublisher
from services.generator.jobs.reporter import WorkerReporter
from services.generator.jobs.repository import GenerationRepository
from services.generator.jobs.status import WorkerStatus
from services.generator.jobs.worker import Worker
from services.generator.providers.accounts.pool import TextAccountPool
from shared.domain.messages import GenerationTask
from shared.kafka import clients
from shared.kafka.topics import GENERATION
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, running_service
from tests.support.scripted_provider import ScriptedProvider, ScriptedTextProvider

LEASE_S = 1.0
_CHECK_EVERY_S = 0.2
_SLOTS = 8


class _ShieldedRepository(GenerationRepository):
    async def finish_step(self, *args: Any, **kwargs: Any) -> None:
        """Complete the statement even if the worker dies, as the server does once it has it."""
        await asyncio.shield(super().finish_step(*args, **kwargs))


class _NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


class _WorkerInstance:
    """The counterpart of one worker process."""

    def __init__(
        self, name: str, backend: Backend, pool: asyncpg.Pool, provider: ScriptedProvider
    ) -> None:
        self._text_provider = ScriptedTextProvider(provider)
        repository = _ShieldedRepository(pool, worker=name, lease_s=LEASE_S)
        events = JobEventPublisher(backend.publisher)
        self._status = WorkerStatus(partitions=tuple(range(GENERATION.partitions)))
        self._worker = Worker(
            slots=_SLOTS,
            max_attempts=1_000,
            repository=repository,
            steps=BlogSteps(
                repository=repository,
                text_provider=cast(TextAccountPool, self._text_provider),
                image_provider=None,
                image_storage=cast(ImageStorage, None),
                events=events,
            ),
            events=events,
            status=self._status,
            rng=_NoJitter(),
        )
        self._reporter = WorkerReporter(
            name=name,
            slots=_SLOTS,
            standins=("openai",),
            status=self._status,
            limiters=(),
            concurrency=AdaptiveConcurrency(
                self._status.held, cast(TextAccountPool, self._text_provider), None
            ),
            publisher=backend.publisher,
        )
        self._loops = [
            asyncio.create_task(loop)
            for loop in (self._reporter.publish_reports(), self._extend_leases())
        ]
        self._jobs: list[asyncio.Task[None]] = []
        self.unfinished: list[GenerationTask] = []

    def start_tasks(self, tasks: Iterable[GenerationTask]) -> None:
        for task in tasks:
            self.unfinished.append(task)
            self._jobs.append(asyncio.create_task(self._process(task)))

    async def stop(self) -> None:
        """Drain: save the answers of paid calls and requeue the other jobs."""
        self._status.draining = True
        await self._reporter.publish_report()
        await self._worker.drain(0, stop_calls=self._text_provider.close, calls_s=5)
        await asyncio.gather(*self._jobs)
        await self.kill()

    async def kill(self) -> None:
        """Cancel everything. Raises the error of a task that failed by itself."""
        tasks = [*self._loops, *self._jobs]
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    async def _process(self, task: GenerationTask) -> None:
        if await self._worker.process_task(task):
            self.unfinished.remove(task)

    async def _extend_leases(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            await self._worker.extend_leases()
            await self._worker.stop_cancelled_jobs()


class RestartableWorker:
    """Runs one worker instance after another with the same provider."""

    def __init__(self, backend: Backend, pool: asyncpg.Pool) -> None:
        self.provider = ScriptedProvider()
        self._backend = backend
        self._pool = pool
        self._names = (f"worker-{number}" for number in count(1))
        self._stopping: set[asyncio.Task[None]] = set()
        self._instance = self._start_instance()

    def _start_instance(self) -> _WorkerInstance:
        return _WorkerInstance(next(self._names), self._backend, self._pool, self.provider)

    @property
    def idle(self) -> bool:
        """Return whether every task is finished: nothing is left to save, release or publish."""
        return not self._stopping and not self._instance.unfinished

    def restart(self) -> None:
        """Start a new instance while the current one drains."""
        before, self._instance = self._instance, self._start_instance()
        self._stopping.add(asyncio.create_task(self._stop_instance(before)))

    async def _stop_instance(self, instance: _WorkerInstance) -> None:
        await instance.stop()
        self._instance.start_tasks(instance.unfinished)
        task = asyncio.current_task()
        assert task is not None
        self._stopping.discard(task)

    async def kill(self) -> None:
        """Kill the current instance and start a new one."""
        before, self._instance = self._instance, self._start_instance()
        await before.kill()
        self._instance.start_tasks(before.unfinished)

    async def run_until_stopped(self, stop: asyncio.Event) -> None:
        """Consume tasks until `stop` is set, then drain."""
        name = clients.namespace(self._backend.settings).topic(GENERATION)
        consumer = clients.create_consumer(self._backend.settings, name, group_id=None)
        await consumer.start()
        try:
            while not stop.is_set():
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    messages = map(clients.decode_record, records)
                    self._instance.start_tasks(
                        message for message in messages if isinstance(message, GenerationTask)
                    )
        finally:
            await consumer.stop()
            await asyncio.gather(*self._stopping)
            await self._instance.stop()


@asynccontextmanager
async def start_restartable_worker(
    backend: Backend, database: str
) -> AsyncIterator[RestartableWorker]:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    async with await open_pool(settings, name="restartable worker") as pool:
        worker = RestartableWorker(backend, pool)
        async with running_service(worker.run_until_stopped):
            yield worker
