"""Assembles one worker and runs it: start, work, drain."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import httpx
from openai import AsyncOpenAI
from replicate.client import Client

from services.generator.blog.image_storage import FolderImageStorage
from services.generator.blog.prompts import largest_call_tokens
from services.generator.blog.steps import BlogSteps
from services.generator.doctor.providers import require_providers
from services.generator.jobs.consumer import TaskConsumer
from services.generator.jobs.events import JobEventPublisher
from services.generator.jobs.reporter import WorkerReporter
from services.generator.jobs.repository import GenerationRepository
from services.generator.jobs.status import WorkerStatus
from services.generator.jobs.worker import Worker
from services.generator.providers.accounts import (
    ImageAccount,
    ProviderAccounts,
    accounts_from_settings,
)
from services.generator.providers.openai import OpenAITextProvider, create_text_client
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


def check_quota(accounts: ProviderAccounts) -> None:
    """Raise `Unavailable` if a limit cannot carry one call of the largest size."""
    text = accounts.texts[0]
    limits = [
        ("OPENAI_RPM", text.requests, 1),
        ("OPENAI_TPM", text.tokens, largest_call_tokens(text)),
    ]
    for image in accounts.images:
        limits += [("REPLICATE_RPM", image.requests, 1), ("REPLICATE_READ_RPM", image.reads, 1)]
    for variable, limit, largest in limits:
        if count_carried_calls(limit, largest) < 1:
            raise Unavailable(
                f"{variable} is {limit:g} a minute, and one call needs up to {largest}: ask the"
                " provider for a higher limit"
            )


ProviderClients = tuple[AsyncOpenAI, Client | None, httpx.AsyncClient]
"""OpenAI, Replicate (`None` without images), and a client that fetches images."""


async def run_worker(settings: GeneratorSettings, stop: asyncio.Event, *, name: str) -> None:
    """Run one worker until `stop` is set, then drain it. `name` is unique among workers."""
    log.info("[Blog Worker] Starting with parallel batch processing...")
    log.info(
        f"[Blog Worker] Config: {settings.concurrent_blogs} concurrent,"
        f" {settings.batch_size} batch size, {settings.max_per_instance} max per instance"
    )
    accounts = accounts_from_settings(settings)
    check_quota(accounts)
    if settings.provider_check:
        await require_providers(accounts)
    pool = await open_pool(settings, name=name)
    await clients.ensure_topics(settings)
    async with (
        Publisher(settings, source=name) as publisher,
        _open_provider_clients(accounts) as provider_clients,
    ):
        service = _GeneratorService(settings, accounts, name, pool, publisher, provider_clients)
        try:
            await service.run_until_stopped(stop)
        finally:
            await pool.close()
    log.info("[Blog Worker] Stopped")


class _GeneratorService:
    def __init__(
        self,
        settings: GeneratorSettings,
        accounts: ProviderAccounts,
        name: str,
        pool: asyncpg.Pool,
        publisher: Publisher,
        provider_clients: ProviderClients,
    ) -> None:
        self._settings = settings
        self._limiters = _create_limiters(accounts, settings.burst_s)
        repository = GenerationRepository(pool, worker=name, lease_s=settings.lease_s)
        self._calls = ProviderCallRepository(pool)
        self._status = WorkerStatus()
        events = JobEventPublisher(publisher)
        steps = _create_steps(
            settings, accounts, self._limiters, repository, events, provider_clients
        )
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
            standins=settings.standin_names(),
            status=self._status,
            limiters=self._limiters.all(),
            publisher=publisher,
        )
        quota = PartitionQuota(
            owner=name,
            limiters=self._limiters.all(),
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
        for limiter in self._limiters.paid():
            limiter.stop_grants()

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _ImageLimiters:
    creations: ProviderLimiter
    reads: ProviderLimiter
    """Polls of predictions, which cost nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limiters:
    text: ProviderLimiter
    images: _ImageLimiters | None
    """`None` without an account for images."""

    def all(self) -> tuple[ProviderLimiter, ...]:
        return self.paid() if self.images is None else (*self.paid(), self.images.reads)

    def paid(self) -> tuple[ProviderLimiter, ...]:
        """Return the limiters of the calls that cost money."""
        return (self.text,) if self.images is None else (self.text, self.images.creations)


def _create_limiters(accounts: ProviderAccounts, burst_s: float) -> _Limiters:
    def create_image_limiter(account: ImageAccount, **limits: float) -> ProviderLimiter:
        return ProviderLimiter(
            provider=account.name,
            model=account.model,
            limits=limits,
            burst_s=burst_s,
            serves=Need.IMAGES,
        )

    def create_image_limiters(account: ImageAccount) -> _ImageLimiters:
        return _ImageLimiters(
            creations=create_image_limiter(account, requests=account.requests),
            reads=create_image_limiter(account, reads=account.reads),
        )

    text = accounts.texts[0]
    return _Limiters(
        text=ProviderLimiter(
            provider=text.name,
            model=text.model,
            limits={"requests": text.requests, "tokens": text.tokens},
            largest_call={"tokens": largest_call_tokens(text)},
            burst_s=burst_s,
            serves=Need.TEXT,
        ),
        images=create_image_limiters(accounts.images[0]) if accounts.images else None,
    )


def _create_steps(
    settings: GeneratorSettings,
    accounts: ProviderAccounts,
    limiters: _Limiters,
    repository: GenerationRepository,
    events: JobEventPublisher,
    provider_clients: ProviderClients,
) -> BlogSteps:
    openai, replicate, http = provider_clients
    image_provider = None
    if replicate is not None and limiters.images is not None:
        image_provider = ReplicateImageProvider(
            replicate,
            http,
            accounts.images[0],
            limiter=limiters.images.creations,
            read_limiter=limiters.images.reads,
        )
    return BlogSteps(
        repository=repository,
        text_provider=OpenAITextProvider(openai, accounts.texts[0], limiters.text),
        image_provider=image_provider,
        image_storage=FolderImageStorage(settings.image_dir, settings.image_base_url),
        events=events,
    )


@asynccontextmanager
async def _open_provider_clients(accounts: ProviderAccounts) -> AsyncIterator[ProviderClients]:
    """Open the vendors' SDK clients without their own retries, and a client that fetches images."""
    replicate = create_client(accounts.images[0]) if accounts.images else None
    openai = create_text_client(accounts.texts[0])
    try:
        async with openai, httpx.AsyncClient(timeout=30, follow_redirects=True) as http:
            yield openai, replicate, http
    finally:
        if replicate is not None:
            await close_client(replicate)
