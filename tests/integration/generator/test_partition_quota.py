"""The quota on the real broker and database: the next owner restores the spend of the last one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

from services.generator.jobs.consumer import TaskConsumer
from services.generator.jobs.repository import GenerationRepository
from services.generator.jobs.status import WorkerStatus
from services.generator.quota.partition_quota import PartitionQuota
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.repository import ProviderCallRepository
from shared.domain.job import Step
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually

_TPM = 600.0
_CALL = 600.0
"""A minute of the account's tokens, so that part of the debt remains however slow the new owner."""


@dataclass(frozen=True, slots=True)
class QuotaOwner:
    """The consumer, limiter and repository of a worker without tasks."""

    limiter: ProviderLimiter
    repository: GenerationRepository
    consumer: TaskConsumer
    stop: asyncio.Event
    loop: asyncio.Task[None]

    async def owns_all(self) -> bool:
        (state,) = self.limiter.build_reports()
        return state.share == _TPM

    async def freeze(self) -> None:
        """Stop consuming, so that nothing is committed any more."""
        self.stop.set()
        await self.loop

    async def begin_call(self, backend: Backend) -> None:
        """Begin a call far above the burst."""
        request = make_request()
        await backend.insert_dispatched(request)
        lease = await self.repository.claim_job(request.id)
        assert lease is not None
        permit = await self.limiter.acquire({"tokens": _CALL}, request.id)
        await self.repository.begin_step(lease, Step.OUTLINE, permit)

    @property
    def level(self) -> float:
        return self.limiter.levels()["tokens"]


@asynccontextmanager
async def start_owner(backend: Backend, database: str, name: str) -> AsyncIterator[QuotaOwner]:
    """Start a worker that owns all partitions. At the end it stops without a commit."""
    pool = await open_pool(PostgresSettings(database_url=database, db_pool_min=1), name=name)
    limiter = ProviderLimiter(provider="openai", model="m", limits={"tokens": _TPM}, burst_s=1.5)
    repository = GenerationRepository(pool, worker=name, lease_s=60)
    consumer = TaskConsumer(
        name=name,
        settings=backend.settings,
        slots=1,
        dead_letter_limit=1,
        publisher=backend.publisher,
        quota=PartitionQuota(
            owner=name,
            limiters=[limiter],
            calls=ProviderCallRepository(pool),
            burst_s=1.5,
            skew_s=1,
        ),
        worker=cast(Any, SimpleNamespace(waiting=0, process_task=AsyncMock(return_value=True))),
        status=WorkerStatus(),
    )
    await consumer.join_group()
    stop = asyncio.Event()
    owner = QuotaOwner(
        limiter, repository, consumer, stop, asyncio.create_task(consumer.run_until_stopped(stop))
    )
    try:
        await eventually(owner.owns_all)
        yield owner
        await owner.freeze()
    finally:
        owner.loop.cancel()
        await consumer._consumer.stop()
        await pool.close()


def _is_in_debt(owner: QuotaOwner) -> bool:
    return -_CALL < owner.level < -50


async def test_next_owner_restores_debt_from_the_checkpoints(
    backend: Backend, database: str
) -> None:
    async with start_owner(backend, database, "first") as first:
        await first.begin_call(backend)
        await first.freeze()
        await first.consumer.leave_group()
    await backend.database.execute("DELETE FROM provider_calls")
    async with start_owner(backend, database, "second") as second:
        assert _is_in_debt(second), second.level


async def test_next_owner_of_crashed_worker_restores_debt_from_calls(
    backend: Backend, database: str
) -> None:
    async with start_owner(backend, database, "first") as first:
        await first.freeze()
        await first.begin_call(backend)
        assert _is_in_debt(first), first.level
    async with start_owner(backend, database, "second") as second:
        assert _is_in_debt(second), second.level
