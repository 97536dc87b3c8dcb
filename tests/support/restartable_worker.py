"""A worker that is stopped in order or dies in the middle of a call, as often as a test likes, on a played provider.

Jobs are worked on by the generator's own `Worker`, `BlogSteps` and `GenerationRepository`. Played are the provider and
Kafka's consumer group: a new life gets the messages again that no life before it has finished. There are no images.
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
from services.generator.jobs.reporter import WorkerReporter
from services.generator.jobs.repository import GenerationRepository
from services.generator.jobs.worker import Worker
from services.generator.providers.openai import OpenAITextProvider
from services.generator.providers.prices import Prices
from services.generator.providers.replicate import ReplicateImageProvider
from shared.domain.messages import GenerationTask
from shared.kafka import clients
from shared.kafka.topics import GENERATION
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, running_service
from tests.support.scripted_provider import ScriptedProvider, ScriptedTextProvider

LEASE_S = 1.0
_LOOKS_S = 0.2
_SLOTS = 8


class _Store(GenerationRepository):
    async def finish_step(self, *args: Any, **kwargs: Any) -> None:
        """What has gone to the server is carried out there, though the sender dies: so every bill is on one side."""
        await asyncio.shield(super().finish_step(*args, **kwargs))


class _NoPause(random.Random):
    def random(self) -> float:
        return 0.0


class _Life:
    """One process of the worker, as it were."""

    def __init__(
        self, name: str, backend: Backend, pool: asyncpg.Pool, provider: ScriptedProvider
    ) -> None:
        self._writer = ScriptedTextProvider(provider)
        store = _Store(pool, worker=name, lease_s=LEASE_S)
        self._worker = worker = Worker(
            name=name,
            slots=_SLOTS,
            max_attempts=1_000,
            store=store,
            publisher=backend.publisher,
            changed=self._changed,
            rng=_NoPause(),
        )
        worker.steps = BlogSteps(
            store=store,
            writer=cast(OpenAITextProvider, self._writer),
            painter=cast(ReplicateImageProvider, None),
            images=cast(ImageStorage, None),
            prices=Prices(input_usd=1, output_usd=1, image_usd=1),
            step_done=worker.tell_step,
        )
        self._reporter = WorkerReporter(
            name=name,
            slots=_SLOTS,
            standin=True,
            worker=worker,
            limiters=(),
            publisher=backend.publisher,
        )
        self._reporter.partitions = tuple(range(GENERATION.partitions))
        self._loops = [
            asyncio.create_task(loop) for loop in (self._reporter.run(), self._look_after())
        ]
        self._jobs: list[asyncio.Task[None]] = []
        self.unfinished: list[GenerationTask] = []

    def take(self, tasks: Iterable[GenerationTask]) -> None:
        for task in tasks:
            self.unfinished.append(task)
            self._jobs.append(asyncio.create_task(self._handle(task)))

    async def stop(self) -> None:
        """In order: what is being paid for is saved, and the rest handed back."""
        self._reporter.draining = True
        await self._reporter.report()
        await self._worker.drain(0, refuse=self._writer.close, calls_s=5)
        await asyncio.gather(*self._jobs)
        await self.die()

    async def die(self) -> None:
        """Whatever it is doing. A fault of its own is the test's."""
        tasks = [*self._loops, *self._jobs]
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if outcome is not None and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    async def _handle(self, task: GenerationTask) -> None:
        if await self._worker.process_task(task):
            self.unfinished.remove(task)

    def _changed(self) -> None:
        self._reporter.changed()

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_LOOKS_S)
            await self._worker.extend_leases()
            await self._worker.stop_cancelled_jobs()


class RestartableWorker:
    """One life after another, on one provider."""

    def __init__(self, backend: Backend, pool: asyncpg.Pool) -> None:
        self.provider = ScriptedProvider()
        self._backend = backend
        self._pool = pool
        self._names = (f"worker-{number}" for number in count(1))
        self._retiring: set[asyncio.Task[None]] = set()
        self._life = self._born()

    def _born(self) -> _Life:
        return _Life(next(self._names), self._backend, self._pool, self.provider)

    @property
    def idle(self) -> bool:
        """It has finished with every message: nothing is left to save, to let go of, or to tell."""
        return not self._retiring and not self._life.unfinished

    def restart(self) -> None:
        """The next one begins while this one still stops."""
        before, self._life = self._life, self._born()
        retiring = asyncio.create_task(self._retire(before))
        self._retiring.add(retiring)

    async def _retire(self, life: _Life) -> None:
        await life.stop()
        self._life.take(life.unfinished)
        self._retiring.discard(asyncio.current_task())

    async def die(self) -> None:
        """And begin anew."""
        before, self._life = self._life, self._born()
        await before.die()
        self._life.take(before.unfinished)

    async def work(self, stop: asyncio.Event) -> None:
        """Take messages until told to stop."""
        name = clients.namespace(self._backend.settings).topic(GENERATION)
        consumer = clients.create_consumer(self._backend.settings, name, group_id=None)
        await consumer.start()
        try:
            while not stop.is_set():
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    messages = map(clients.decode_record, records)
                    self._life.take(
                        message for message in messages if isinstance(message, GenerationTask)
                    )
        finally:
            await consumer.stop()
            await asyncio.gather(*self._retiring)
            await self._life.stop()


@asynccontextmanager
async def start_restartable_worker(
    backend: Backend, database: str
) -> AsyncIterator[RestartableWorker]:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    async with await open_pool(settings, name="mortal") as pool:
        worker = RestartableWorker(backend, pool)
        async with running_service(worker.work):
            yield worker
