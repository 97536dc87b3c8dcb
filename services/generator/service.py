"""Assembles one worker and runs it: start, work, drain."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg
import httpx
from openai import AsyncOpenAI
from replicate.client import Client

from services.generator.blog.image_storage import FolderImageStorage
from services.generator.blog.prompts import largest_call_tokens
from services.generator.blog.steps import BlogSteps
from services.generator.jobs.consumer import TaskConsumer
from services.generator.jobs.events import JobEventPublisher
from services.generator.jobs.reporter import WorkerReporter
from services.generator.jobs.repository import GenerationRepository
from services.generator.jobs.status import WorkerStatus
from services.generator.jobs.worker import Worker
from services.generator.providers.openai import OpenAITextProvider
from services.generator.providers.prices import Prices
from services.generator.providers.replicate import (
    ReplicateImageProvider,
    close_client,
    create_client,
)
from services.generator.quota.partition_quota import PartitionQuota
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.repository import ProviderCallRepository
from services.generator.settings import GeneratorSettings
from shared.domain.errors import Unavailable
from shared.domain.messages import Need
from shared.domain.quota_layout import count_carried_calls
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.observability.log import get_logger
from shared.runtime.lifecycle import background_tasks
from shared.runtime.postgres import open_pool, retry_while_unavailable

log = get_logger(__name__)

_DELETE_CALLS_EVERY_S = 60.0
_STOP_CANCELLED_EVERY_S = 2.0


def check_quota(settings: GeneratorSettings) -> None:
    """Raise `Unavailable` if a limit cannot carry one call of the largest size."""
    for variable, limit, largest in (
        ("OPENAI_RPM", settings.openai_rpm, 1),
        ("OPENAI_TPM", settings.openai_tpm, largest_call_tokens()),
        ("REPLICATE_RPM", settings.replicate_rpm, 1),
        ("REPLICATE_READ_RPM", settings.replicate_read_rpm, 1),
    ):
        if count_carried_calls(limit, largest) < 1:
            raise Unavailable(
                f"{variable} is {limit:g} a minute, and one call needs up to {largest}: ask the"
                " provider for a higher limit"
            )


ProviderClients = tuple[AsyncOpenAI, Client, httpx.AsyncClient]
"""OpenAI, Replicate, and a client that fetches images."""


async def run_worker(settings: GeneratorSettings, stop: asyncio.Event, *, name: str) -> None:
    """Run one worker until `stop` is set, then drain it. `name` is unique among workers."""
    log.info("[Blog Worker] Starting with parallel batch processing...")
    log.info(
        f"[Blog Worker] Config: {settings.concurrent_blogs} concurrent,"
        f" {settings.batch_size} batch size, {settings.max_per_instance} max per instance"
    )
    check_quota(settings)
    pool = await open_pool(settings, name=name)
    await clients.ensure_topics(settings)
    async with (
        Publisher(settings, source=name) as publisher,
        _open_provider_clients(settings) as provider_clients,
    ):
        service = _GeneratorService(settings, name, pool, publisher, provider_clients)
        try:
            await service.run_until_stopped(stop)
        finally:
            await pool.close()
    log.info("[Blog Worker] Stopped")


class _GeneratorService:
    def __init__(
        self,
        settings: GeneratorSettings,
        name: str,
        pool: asyncpg.Pool,
        publisher: Publisher,
        provider_clients: ProviderClients,
    ) -> None:
        self._settings = settings
        self._limiters = _create_limiters(settings)
        repository = GenerationRepository(pool, worker=name, lease_s=settings.lease_s)
        self._calls = ProviderCallRepository(pool)
        self._status = WorkerStatus()
        events = JobEventPublisher(publisher)
        steps = _create_steps(settings, self._limiters, repository, events, provider_clients)
        self._worker = Worker(
            slots=settings.concurrent_blogs,
            max_attempts=settings.max_attempts,
            repository=repository,
            steps=steps,
            events=events,
            status=self._status,
            rng=random.Random(name),  # noqa: S311 - jitter, no secret
        )
        self._reporter = WorkerReporter(
            name=name,
            slots=settings.concurrent_blogs,
            standin=settings.standin,
            status=self._status,
            limiters=self._limiters,
            publisher=publisher,
        )
        quota = PartitionQuota(
            owner=name,
            limiters=self._limiters,
            calls=self._calls,
            burst_s=settings.burst_s,
            skew_s=settings.clock_skew_s,
        )
        self._consumer = TaskConsumer(
            name=name,
            settings=settings,
            slots=settings.concurrent_blogs,
            worker=self._worker,
            status=self._status,
            publisher=publisher,
            quota=quota,
            dead_letter_limit=settings.dead_letter_limit,
        )

    async def run_until_stopped(self, stop: asyncio.Event) -> None:
        await self._consumer.join_group()
        loops = {
            "reports": self._reporter.publish_reports(),
            "heartbeat": self._reporter.log_heartbeats(),
            "leases": self._extend_leases(),
            "cancellations": self._stop_cancelled_jobs(),
            "records of calls": self._delete_old_calls(),
        }
        async with background_tasks(stop, **loops):
            log.info("[Blog Worker] Started successfully")
            try:
                await self._consumer.run_until_stopped(stop)
            finally:  # after an error too: save paid answers and commit finished tasks
                await self._drain()

    async def _drain(self) -> None:
        log.info(
            "[Blog Worker] Draining", running=self._status.running, seconds=self._settings.drain_s
        )
        self._status.draining = True
        await self._reporter.publish_report()
        async with background_tasks(asyncio.Event(), group=self._consumer.stay_in_group()):
            await self._worker.drain(
                self._settings.drain_s,
                stop_calls=self._stop_grants,
                calls_s=self._settings.openai_timeout_s,
            )
        await self._consumer.leave_group()
        self._reporter.log_heartbeat()

    def _stop_grants(self) -> None:
        self._limiters.text.stop_grants()
        self._limiters.images.stop_grants()

    async def _extend_leases(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            await retry_while_unavailable(self._worker.extend_leases, operation="extend leases")

    async def _stop_cancelled_jobs(self) -> None:
        while True:
            await asyncio.sleep(_STOP_CANCELLED_EVERY_S)
            await retry_while_unavailable(
                self._worker.stop_cancelled_jobs, operation="stop cancelled jobs"
            )

    async def _delete_old_calls(self) -> None:
        while True:
            await asyncio.sleep(_DELETE_CALLS_EVERY_S)
            await retry_while_unavailable(
                self._calls.delete_old_calls, operation="delete old calls"
            )


class _Limiters(NamedTuple):
    text: ProviderLimiter
    images: ProviderLimiter
    image_reads: ProviderLimiter
    """Polls of predictions, which cost nothing."""


def _create_limiters(settings: GeneratorSettings) -> _Limiters:
    def create_image_limiter(**limits: float) -> ProviderLimiter:
        return ProviderLimiter(
            provider="replicate",
            model=settings.replicate_model,
            limits=limits,
            burst_s=settings.burst_s,
            serves=Need.IMAGES,
        )

    return _Limiters(
        text=ProviderLimiter(
            provider="openai",
            model=settings.openai_model,
            limits={"requests": settings.openai_rpm, "tokens": settings.openai_tpm},
            largest_call={"tokens": largest_call_tokens()},
            burst_s=settings.burst_s,
            serves=Need.TEXT,
        ),
        images=create_image_limiter(requests=settings.replicate_rpm),
        image_reads=create_image_limiter(reads=settings.replicate_read_rpm),
    )


def _create_steps(
    settings: GeneratorSettings,
    limiters: _Limiters,
    repository: GenerationRepository,
    events: JobEventPublisher,
    provider_clients: ProviderClients,
) -> BlogSteps:
    openai, replicate, http = provider_clients
    prices = Prices(
        input_usd=settings.openai_input_price,
        output_usd=settings.openai_output_price,
        image_usd=settings.replicate_price,
    )
    return BlogSteps(
        repository=repository,
        text_provider=OpenAITextProvider(
            openai, model=settings.openai_model, limiter=limiters.text, prices=prices
        ),
        image_provider=ReplicateImageProvider(
            replicate,
            http,
            model=settings.replicate_model,
            limiter=limiters.images,
            read_limiter=limiters.image_reads,
            timeout_s=settings.replicate_timeout_s,
        ),
        image_storage=FolderImageStorage(settings.image_dir, settings.image_base_url),
        prices=prices,
        events=events,
    )


@asynccontextmanager
async def _open_provider_clients(
    settings: GeneratorSettings,
) -> AsyncIterator[ProviderClients]:
    """Open the vendors' SDK clients without their own retries, and a client that fetches images."""
    replicate = create_client(
        settings.replicate_api_token.get_secret_value(), settings.replicate_base_url
    )
    openai = AsyncOpenAI(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        max_retries=0,
        timeout=settings.openai_timeout_s,
    )
    try:
        async with openai, httpx.AsyncClient(timeout=30, follow_redirects=True) as http:
            yield openai, replicate, http
    finally:
        await close_client(replicate)
