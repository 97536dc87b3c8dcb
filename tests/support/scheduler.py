"""Helpers of the scheduler's tests: a running scheduler, and the actions of clients and workers."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.scheduler.__main__ import run_scheduler
from services.scheduler.settings import SchedulerSettings
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind, GenerationTask, JobEvent, WorkerReport
from shared.kafka.topics import GENERATION, RESULTS, WORKERS
from tests.support.backend import Backend, running_service

StartScheduler = Callable[..., AbstractAsyncContextManager[None]]


@asynccontextmanager
async def start_scheduler(
    backend: Backend, database: str, name: str = "scheduler-1", **changes: Any
) -> AsyncIterator[None]:
    """Run a scheduler that sweeps often and forgets workers late; `changes` are settings."""
    values: dict[str, Any] = {
        "kafka_bootstrap_servers": backend.settings.kafka_bootstrap_servers,
        "kafka_topic_prefix": backend.settings.kafka_topic_prefix,
        "database_url": database,
        "db_pool_min": 1,
        "worker_silence_s": 30,
        "sweep_every_s": 0.5,
        "lease_grace_s": 0.1,
    }
    settings = SchedulerSettings(**(values | changes))
    async with running_service(lambda stop: run_scheduler(settings, stop, name)):
        yield


async def publish_worker_report(
    backend: Backend, slots: int, worker: str = "w", at: datetime | None = None
) -> None:
    """Publish the report of a worker with all partitions and this many slots."""
    at = at or datetime.now(UTC)
    report = WorkerReport(
        worker=worker, at=at, started_at=at, partitions=tuple(range(24)), slots=slots, running=0
    )
    await backend.publish(WORKERS, worker, report)


async def finish_job(backend: Backend, request: BlogRequested, cost: int = 1_000) -> None:
    """End a job as a worker does: write the row, then publish the event."""
    await backend.database.execute(
        "UPDATE blog_generations SET status = 'DONE', attempt = 1, cost_nanousd = $2,"
        " finished_at = now() WHERE id = $1",
        request.id,
        cost,
    )
    event = JobEvent(
        job=request.id,
        store=request.store,
        kind=EventKind.ENDED,
        status=Status.DONE,
        attempt=1,
        at=datetime.now(UTC),
        created_at=request.created_at,
    )
    await backend.publish(RESULTS, request.store, event)


async def read_tasks(backend: Backend) -> list[GenerationTask]:
    """Read all tasks in the order of dispatch. Tasks of one batch keep their partitions' order."""
    found = [
        message
        for _, message in await backend.read_records(GENERATION)
        if isinstance(message, GenerationTask)
    ]
    return sorted(found, key=lambda task: task.forwarded_at)


async def read_tasks_at_least(backend: Backend, count: int) -> list[GenerationTask]:
    """Return the tasks once there are at least `count`, else an empty list."""
    found = await read_tasks(backend)
    return found if len(found) >= count else []


async def has_job_count(backend: Backend, count: int) -> bool:
    return bool(
        await backend.database.fetchval("SELECT count(*) = $1 FROM blog_generations", count)
    )


async def is_settled(backend: Backend, job: UUID) -> bool:
    return bool(
        await backend.database.fetchval(
            "SELECT charged_nanousd = cost_nanousd FROM blog_generations WHERE id = $1", job
        )
    )


async def is_leader(backend: Backend, name: str) -> bool:
    return bool(
        await backend.database.fetchval(
            "SELECT holder IS NOT DISTINCT FROM $1 FROM scheduler_leader", name
        )
    )


async def read_epoch(backend: Backend) -> int:
    return int(await backend.database.fetchval("SELECT epoch FROM scheduler_leader") or 0)
