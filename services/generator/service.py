"""Puts one worker together and runs it: start, work, drain."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
from openai import AsyncOpenAI
from replicate.client import Client

from services.generator.blog.image_storage import FolderImageStorage
from services.generator.blog.prompts import largest_call_tokens
from services.generator.blog.steps import BlogSteps
from services.generator.jobs.consumer import TaskConsumer
from services.generator.jobs.reporter import WorkerReporter
from services.generator.jobs.repository import GenerationRepository
from services.generator.jobs.worker import Worker
from services.generator.providers import replicate as painting
from services.generator.providers.openai import OpenAITextProvider
from services.generator.providers.prices import Prices
from services.generator.providers.replicate import ReplicateImageProvider
from services.generator.quota.partition_quota import PartitionQuota
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.settings import GeneratorSettings
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.kafka.topics import GENERATION
from shared.observability.log import get_logger
from shared.runtime.lifecycle import background_tasks
from shared.runtime.postgres import open_pool, retry_while_unavailable

log = get_logger(__name__)

_FORGET_EVERY_S = 60.0
_CANCELLED_EVERY_S = 2.0


def check_quota(settings: GeneratorSettings) -> None:
    """Debts stay harmless only while every partition's largest call fits the account at once."""
    needed = GENERATION.partitions * largest_call_tokens()
    if needed > settings.openai_tpm:
        raise Unavailable(
            f"OPENAI_TPM is {settings.openai_tpm:g}, and {GENERATION.partitions} partitions with calls of up to"
            f" {largest_call_tokens()} tokens need {needed}: ask the provider for a higher limit"
        )


async def run_worker(settings: GeneratorSettings, stop: asyncio.Event, *, name: str) -> None:
    """Run one worker until `stop` is set, then drain it. `name` is unique among workers."""
    log.info("[Blog Worker] Starting with parallel batch processing...")
    log.info(
        f"[Blog Worker] Config: {settings.concurrent_blogs} concurrent, {settings.batch_size} batch size,"
        f" {settings.max_per_instance} max per instance"
    )
    check_quota(settings)
    pool = await open_pool(settings, name=name)
    await clients.ensure_topics(settings)
    async with (
        Publisher(settings, source=name) as publisher,
        _open_provider_clients(settings) as (openai, replicate, http),
    ):
        try:
            await _Service(settings, name, pool, publisher, openai, replicate, http).run(stop)
        finally:
            await pool.close()
    log.info("[Blog Worker] Stopped")


class _Service:
    def __init__(
        self,
        settings: GeneratorSettings,
        name: str,
        pool: asyncpg.Pool,
        publisher: Publisher,
        openai: AsyncOpenAI,
        replicate: Client,
        http: httpx.AsyncClient,
    ) -> None:
        self._settings = settings
        prices = Prices(
            input_usd=settings.openai_input_price,
            output_usd=settings.openai_output_price,
            image_usd=settings.replicate_price,
        )
        texts = ProviderLimiter(
            provider="openai",
            model=settings.openai_model,
            burst_s=settings.burst_s,
            limits={"requests": settings.openai_rpm, "tokens": settings.openai_tpm},
        )
        pictures = ProviderLimiter(
            provider="replicate",
            model=settings.replicate_model,
            burst_s=settings.burst_s,
            limits={"requests": settings.replicate_rpm},
        )
        reads = ProviderLimiter(
            provider="replicate",
            model=settings.replicate_model,
            burst_s=settings.burst_s,
            limits={"reads": settings.replicate_read_rpm},
        )
        limiters = (texts, pictures, reads)
        self._paid = (texts, pictures)
        self._store = store = GenerationRepository(pool, worker=name, lease_s=settings.lease_s)
        self._worker = Worker(
            name=name,
            slots=settings.concurrent_blogs,
            max_attempts=settings.max_attempts,
            store=store,
            publisher=publisher,
            changed=self._changed,
            rng=random.Random(name),  # noqa: S311 - jitter, no secret
        )
        self._worker.steps = BlogSteps(
            store=store,
            writer=OpenAITextProvider(openai, model=settings.openai_model, limiter=texts, prices=prices),
            painter=ReplicateImageProvider(
                replicate,
                http,
                model=settings.replicate_model,
                limiter=pictures,
                reads=reads,
                timeout_s=settings.replicate_timeout_s,
            ),
            images=FolderImageStorage(settings.image_dir, settings.image_base_url),
            prices=prices,
            step_done=self._worker.tell_step,
        )
        self._reporter = WorkerReporter(
            name=name,
            slots=settings.concurrent_blogs,
            standin=settings.standin,
            worker=self._worker,
            limiters=limiters,
            publisher=publisher,
        )
        budget = PartitionQuota(
            owner=name,
            limiters=limiters,
            store=store,
            total=GENERATION.partitions,
            burst_s=settings.burst_s,
            skew_s=settings.clock_skew_s,
        )
        self._consumer = TaskConsumer(
            name=name,
            settings=settings,
            slots=settings.concurrent_blogs,
            worker=self._worker,
            publisher=publisher,
            budget=budget,
            dead_letter_limit=settings.dead_letter_limit,
            owned=self._own,
        )

    async def run(self, stop: asyncio.Event) -> None:
        await self._consumer.start()
        loops = {
            "reports": self._reporter.run(),
            "heartbeat": self._reporter.log_heartbeat(),
            "leases": self._keep_leases(),
            "cancellations": self._stop_cancelled(),
            "records of calls": self._forget_calls(),
        }
        async with background_tasks(stop, **loops):
            log.info("[Blog Worker] Started successfully")
            try:
                await self._consumer.run(stop)
            finally:  # however it ends: what is paid for is to be saved, what is finished to be committed
                await self._drain()

    async def _drain(self) -> None:
        log.info(
            "[Blog Worker] Draining", running=self._worker.running, seconds=self._settings.drain_s
        )
        self._reporter.draining = True
        await self._reporter.report()
        async with background_tasks(asyncio.Event(), group=self._consumer.hold()):
            await self._worker.drain(
                self._settings.drain_s,
                refuse=self._close_limits,
                calls_s=self._settings.openai_timeout_s,
            )
        await self._consumer.finish()
        self._reporter.say()

    def _close_limits(self) -> None:
        for limiter in self._paid:
            limiter.close()

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            await retry_while_unavailable(self._worker.extend_leases, what="leases")

    async def _stop_cancelled(self) -> None:
        while True:
            await asyncio.sleep(_CANCELLED_EVERY_S)
            await retry_while_unavailable(self._worker.stop_cancelled_jobs, what="cancellations")

    async def _forget_calls(self) -> None:
        while True:
            await asyncio.sleep(_FORGET_EVERY_S)
            await retry_while_unavailable(self._store.delete_old_calls, what="records of calls")

    def _changed(self) -> None:
        self._reporter.changed()

    def _own(self, partitions: tuple[int, ...]) -> None:
        self._reporter.partitions = partitions
        self._reporter.changed()


@asynccontextmanager
async def _open_provider_clients(
    settings: GeneratorSettings,
) -> AsyncIterator[tuple[AsyncOpenAI, Client, httpx.AsyncClient]]:
    """The vendors' SDKs, with their own retries off, and a plain client that fetches images."""
    replicate = painting.create_client(
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
        await painting.close_client(replicate)
