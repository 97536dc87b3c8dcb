"""Partitions are added to the topic of tasks while workers run: together they keep to the limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from services.generator.jobs.consumer import TaskConsumer
from services.generator.jobs.status import WorkerStatus
from services.generator.quota.partition_quota import PartitionQuota
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.repository import ProviderCallRepository
from shared.domain.messages import LimiterReport
from shared.kafka import clients
from shared.kafka.topics import GENERATION
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend
from tests.support.eventually import eventually

_CALLS = 30
"""More calls than the 24 partitions carry at first, and fewer than the 40 they become."""


@dataclass(slots=True)
class Owner:
    """A worker without tasks, and its limiter."""

    limiter: ProviderLimiter
    status: WorkerStatus = field(default_factory=WorkerStatus)

    @property
    def report(self) -> LimiterReport:
        return self.limiter.build_reports()[0]


@asynccontextmanager
async def start_owner(backend: Backend, database: str, name: str) -> AsyncIterator[Owner]:
    pool = await open_pool(PostgresSettings(database_url=database, db_pool_min=1), name=name)
    limits = {"requests": float(_CALLS)}
    owner = Owner(ProviderLimiter(provider="openai", model="m", limits=limits, burst_s=1.5))
    quota = PartitionQuota(
        owner=name,
        limiters=[owner.limiter],
        calls=ProviderCallRepository(pool),
        burst_s=1.5,
        skew_s=1,
    )
    consumer = TaskConsumer(
        name=name,
        settings=backend.settings,
        slots=1,
        dead_letter_limit=1,
        publisher=backend.publisher,
        quota=quota,
        worker=cast(Any, SimpleNamespace(waiting=0, process_task=AsyncMock(return_value=True))),
        status=owner.status,
    )
    await consumer.join_group()
    stop = asyncio.Event()
    loop = asyncio.create_task(consumer.run_until_stopped(stop))
    try:
        yield owner
    finally:
        stop.set()
        await loop
        await consumer.leave_group()
        await pool.close()


def total_share(owners: list[Owner]) -> float:
    """Return the part of the limit that all owners may spend now."""
    return sum(owner.report.share for owner in owners) / _CALLS


async def test_raise_keeps_all_owners_within_the_limit(
    backend: Backend, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "METADATA_MAX_AGE_MS", 1_000)
    highest = 0.0
    async with AsyncExitStack() as stack:
        owners = [
            await stack.enter_async_context(start_owner(backend, database, name)) for name in "ab"
        ]

        def have_partitions(total: int) -> bool:
            nonlocal highest
            share = total_share(owners)
            highest = max(highest, share)
            partitions = sum(len(owner.report.partitions or ()) for owner in owners)
            return (
                partitions == total and share > 0.9 and all(owner.report.share for owner in owners)
            )

        await eventually(lambda: have_partitions(24))
        assert total_share(owners) == pytest.approx(1)
        raised = backend.settings.model_copy(update={"generation_partitions": 40})
        await asyncio.gather(clients.ensure_topics(raised), clients.ensure_topics(raised))
        await eventually(lambda: have_partitions(_CALLS), every=0.01)
        assert len(await clients.fetch_partitions(raised, GENERATION)) == 40
        assert [owner.status.total_partitions for owner in owners] == [40, 40]
        assert total_share(owners) == pytest.approx(1 - 2.5 / 60), "the debts may use up the limit"
        levels = [owner.limiter.levels()["requests"] for owner in owners]
        assert sum(levels) < -0.7 * _CALLS, "calls begin about a minute after the change"
    assert highest == pytest.approx(1)
    await clients.ensure_topics(backend.settings)
    assert len(await clients.fetch_partitions(raised, GENERATION)) == 40, "none are removed"
