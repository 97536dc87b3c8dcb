"""The budget on the real broker and database: whoever gets the partitions next finds what the last owner has spent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

from services.generator.jobs.consumer import TaskConsumer
from services.generator.jobs.repository import GenerationRepository
from services.generator.quota.partition_quota import PartitionQuota
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.job import Step
from shared.kafka.topics import GENERATION
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually

_TPM = 600.0
_CALL = 600.0
"""A whole minute of the account's tokens: however long a new owner takes, part of the debt is still there."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A worker's consumer, limiter and records, with no work to do."""

    limiter: ProviderLimiter
    store: GenerationRepository
    consumer: TaskConsumer
    stop: asyncio.Event
    loop: asyncio.Task[None]

    async def owns_all(self) -> bool:
        (state,) = self.limiter.build_reports()
        return state.share == _TPM

    async def freeze(self) -> None:
        """From here on it commits nothing."""
        self.stop.set()
        await self.loop

    async def call(self, backend: Backend) -> None:
        """Begin a call far beyond the burst."""
        request = make_request()
        await backend.insert_dispatched(request)
        claim = await self.store.claim_job(request.id)
        assert claim is not None
        await self.store.begin_step(
            claim, Step.OUTLINE, await self.limiter.acquire({"tokens": _CALL})
        )

    @property
    def level(self) -> float:
        return self.limiter.levels()["tokens"]


@asynccontextmanager
async def an_owner(backend: Backend, database: str, name: str) -> AsyncIterator[Owner]:
    """One that has all partitions. On the way out it leaves the group as it is."""
    pool = await open_pool(PostgresSettings(database_url=database, db_pool_min=1), name=name)
    limiter = ProviderLimiter(provider="openai", model="m", limits={"tokens": _TPM}, burst_s=1.5)
    store = GenerationRepository(pool, worker=name, lease_s=60)
    consumer = TaskConsumer(
        name=name,
        settings=backend.settings,
        slots=1,
        dead_letter_limit=1,
        publisher=backend.publisher,
        budget=PartitionQuota(
            owner=name,
            limiters=[limiter],
            store=store,
            total=GENERATION.partitions,
            burst_s=1.5,
            skew_s=1,
        ),
        worker=cast(Any, SimpleNamespace(waiting=0, process_task=AsyncMock(return_value=True))),
        owned=lambda partitions: None,
    )
    await consumer.start()
    stop = asyncio.Event()
    owner = Owner(limiter, store, consumer, stop, asyncio.create_task(consumer.run(stop)))
    try:
        await eventually(owner.owns_all)
        yield owner
        await owner.freeze()
    finally:
        owner.loop.cancel()
        await consumer._consumer.stop()
        await pool.close()


def _is_in_debt(owner: Owner) -> bool:
    return -_CALL < owner.level < -50


async def test_the_next_owner_finds_the_debt_in_the_notes(backend: Backend, database: str) -> None:
    async with an_owner(backend, database, "first") as first:
        await first.call(backend)
        await first.freeze()
        await first.consumer.finish()
    await backend.database.execute("DELETE FROM provider_calls")
    async with an_owner(backend, database, "second") as second:
        assert _is_in_debt(second), second.level


async def test_after_a_crash_the_next_owner_finds_the_debt_in_the_records(
    backend: Backend, database: str
) -> None:
    async with an_owner(backend, database, "first") as first:
        await first.freeze()
        await first.call(backend)
        assert _is_in_debt(first), first.level
    async with an_owner(backend, database, "second") as second:
        assert _is_in_debt(second), second.level
