"""Assembles one worker and runs it: start, work, drain."""

import asyncio
import random

import asyncpg

from services.generator.blog.image_storage import FolderImageStorage
from services.generator.blog.steps import BlogSteps
from services.generator.doctor.providers import require_providers, require_quota
from services.generator.jobs.concurrency import AdaptiveConcurrency
from services.generator.jobs.consumer import TaskConsumer
from services.generator.jobs.events import JobEventPublisher
from services.generator.jobs.reporter import WorkerReporter
from services.generator.jobs.repository import GenerationRepository
from services.generator.jobs.status import WorkerStatus
from services.generator.jobs.worker import Worker
from services.generator.providers.accounts.account import accounts_from_settings
from services.generator.providers.accounts.provider_set import ProviderSet, open_providers
from services.generator.quota.partition_quota import PartitionQuota
from services.generator.quota.repository import ProviderCallRepository
from services.generator.settings import GeneratorSettings
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.observability.log import get_logger
from shared.runtime.lifecycle import background_tasks
from shared.runtime.postgres import open_pool, retry_while_unavailable

log = get_logger(__name__)

_DELETE_CALLS_EVERY_S = 60.0
_STOP_CANCELLED_EVERY_S = 2.0


async def run_worker(settings: GeneratorSettings, stop: asyncio.Event, *, name: str) -> None:
    """Run one worker until `stop` is set, then drain it. `name` is unique among workers."""
    log.info("[Blog Worker] Starting with parallel batch processing...")
    log.info(
        f"[Blog Worker] Config: {settings.concurrent_blogs} concurrent,"
        f" {settings.batch_size} batch size, {settings.max_per_instance} max per instance"
    )
    accounts = accounts_from_settings(settings)
    require_quota(accounts)
    if settings.provider_check:
        await require_providers(accounts, from_file=settings.providers_file is not None)
    pool = await open_pool(settings, name=name)
    await clients.ensure_topics(settings)
    status = WorkerStatus()
    async with (
        Publisher(settings, source=name) as publisher,
        open_providers(accounts, burst_s=settings.burst_s, held=status.held) as providers,
    ):
        service = _GeneratorService(settings, name, pool, publisher, providers, status)
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
        providers: ProviderSet,
        status: WorkerStatus,
    ) -> None:
        self._settings = settings
        self._providers = providers
        repository = GenerationRepository(pool, worker=name, lease_s=settings.lease_s)
        self._calls = ProviderCallRepository(pool)
        self._status = status
        events = JobEventPublisher(publisher)
        steps = BlogSteps(
            repository=repository,
            text_provider=providers.texts,
            image_provider=providers.images,
            image_storage=FolderImageStorage(settings.image_dir, settings.image_base_url),
            events=events,
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
            limiters=providers.limiters,
            concurrency=AdaptiveConcurrency(status.held, providers.texts, providers.images),
            publisher=publisher,
        )
        quota = PartitionQuota(
            owner=name,
            limiters=providers.limiters,
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
                stop_calls=self._providers.stop_grants,
                calls_s=self._providers.text_timeout_s,
            )
        await self._consumer.leave_group()
        self._reporter.log_heartbeat()

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
