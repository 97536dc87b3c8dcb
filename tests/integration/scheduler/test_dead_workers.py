"""The leader requeues the jobs of a dead worker at once, and those of no other worker.

The worker of these tests has what the scheduler sees of one: reports, connections to PostgreSQL,
and jobs under leases of an hour.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import asyncpg
import pytest

from migrations import runner
from sandbox.servers import postgres as postgres_server
from shared.domain.messages import BlogRequested, EventKind, JobEvent, SchedulerReport
from shared.kafka.topics import RESULTS, WORKERS
from shared.runtime import postgres
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, make_request, open_backend
from tests.support.eventually import eventually
from tests.support.scheduler import StartScheduler, publish_worker_report, start_scheduler
from tests.support.servers import NOT_DURABLE, execute, server_folder, start_server, stop_server

_SILENCE_S = 1.0
_VERDICT_REPORTS = 5
"""The scheduler publishes so many reports while it looks for dead workers longer than it needs."""


@pytest.fixture
def start(backend: Backend, database: str) -> StartScheduler:
    return partial(start_scheduler, backend, database, worker_silence_s=_SILENCE_S, lease_s=3_600)


class ObservedWorker:
    """Reports until `freeze`, and is connected until `kill`."""

    def __init__(self, backend: Backend, name: str, pool: asyncpg.Pool) -> None:
        self.name = name
        self._backend = backend
        self._pool = pool
        self._reports = asyncio.create_task(self._publish_reports())

    async def _publish_reports(self) -> None:
        while True:
            await self._pool.fetchval("SELECT 1")  # opens the first connection
            await publish_worker_report(self._backend, slots=0, worker=self.name)
            await asyncio.sleep(_SILENCE_S / 4)

    async def freeze(self) -> None:
        self._reports.cancel()
        await asyncio.wait({self._reports})

    async def kill(self) -> None:
        await self.freeze()
        self._pool.terminate()


@asynccontextmanager
async def start_worker(backend: Backend, database: str, name: str) -> AsyncIterator[ObservedWorker]:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    pool = await open_pool(settings, name=name)
    worker = ObservedWorker(backend, name, pool)
    try:
        yield worker
    finally:
        await worker.kill()


async def insert_running(
    backend: Backend, worker: str, status: str = "PROCESSING"
) -> BlogRequested:
    """Insert a job that the worker has claimed for an hour."""
    await backend.insert_dispatched(request := make_request())
    await backend.database.execute(
        "UPDATE blog_generations SET status = $3, attempt = 1, worker = $2, started_at = now(),"
        " lease_until = now() + interval '1 hour',"
        " finished_at = CASE WHEN $3 = 'CANCELLED' THEN now() END WHERE id = $1",
        request.id,
        worker,
        status,
    )
    return request


async def wait_for_scheduler_reports(backend: Backend, count: int = _VERDICT_REPORTS) -> None:
    """Wait until the scheduler has published `count` more reports: one a second."""
    before = await _count_scheduler_reports(backend)

    async def is_later() -> bool:
        return await _count_scheduler_reports(backend) >= before + count

    await eventually(is_later, every=0.3, timeout=60)


async def _count_scheduler_reports(backend: Backend) -> int:
    records = await backend.read_records(WORKERS)
    return sum(isinstance(report, SchedulerReport) for _, report in records)


async def _read_retry_reasons(backend: Backend) -> list[str | None]:
    records = await backend.read_records(RESULTS)
    events = [event for _, event in records if isinstance(event, JobEvent)]
    return [event.error for event in events if event.kind is EventKind.RETRY]


async def test_job_of_dead_worker_returns_before_its_lease_ends(
    backend: Backend, database: str, start: StartScheduler
) -> None:
    lost, kept = await insert_running(backend, "dead"), await insert_running(backend, "alive")
    cancelled = await insert_running(backend, "dead", "CANCELLED")
    async with (
        start_worker(backend, database, "dead") as dead,
        start_worker(backend, database, "alive"),
        start(),
    ):
        await wait_for_scheduler_reports(backend)
        assert await backend.has_status(lost.id, "PROCESSING")
        await dead.kill()
        await eventually(partial(backend.has_status, lost.id, "PENDING"))
        reasons = await eventually(partial(_read_retry_reasons, backend), every=0.3)
        assert await backend.has_status(kept.id, "PROCESSING")
        assert (await backend.row(cancelled.id))["lease_until"] is None
    assert reasons == ["the worker died"]


async def test_many_statements_hide_no_death(
    backend: Backend, database: str, start: StartScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool of a scheduler keeps its connections, so their loss means a restart."""
    monkeypatch.setattr(postgres, "_STATEMENTS_PER_CONNECTION", 2)
    job = await insert_running(backend, "dead")
    async with start_worker(backend, database, "dead") as dead, start():
        await wait_for_scheduler_reports(backend)
        await dead.kill()
        await eventually(partial(backend.has_status, job.id, "PENDING"))


async def test_frozen_worker_keeps_its_job_until_it_dies(
    backend: Backend, database: str, start: StartScheduler
) -> None:
    job = await insert_running(backend, "frozen")
    async with start_worker(backend, database, "frozen") as worker, start():
        await wait_for_scheduler_reports(backend)
        await worker.freeze()
        await wait_for_scheduler_reports(backend)
        assert await backend.has_status(job.id, "PROCESSING")
        await worker.kill()
        await eventually(partial(backend.has_status, job.id, "PENDING"))


async def test_worker_that_is_dead_before_the_session_keeps_its_lease(
    backend: Backend, database: str, start: StartScheduler
) -> None:
    """Nothing shows that it was connected: it may connect later than the scheduler did."""
    job = await insert_running(backend, "w")
    await publish_worker_report(backend, slots=0, worker="w")
    async with start():
        await wait_for_scheduler_reports(backend)
        assert await backend.has_status(job.id, "PROCESSING")


async def test_loss_of_all_connections_declares_no_worker_dead(
    backend: Backend, database: str, start: StartScheduler
) -> None:
    """PostgreSQL closes all connections when one of its own processes crashes."""
    job = await insert_running(backend, "frozen")
    async with start_worker(backend, database, "frozen") as worker, start():
        await wait_for_scheduler_reports(backend)
        await worker.freeze()
        await backend.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await wait_for_scheduler_reports(backend)
        assert await backend.has_status(job.id, "PROCESSING")


async def test_restart_of_postgresql_declares_no_worker_dead(kafka: str, topic_prefix: str) -> None:
    """Restarts its own server while a worker is frozen."""
    with server_folder() as folder:
        spec, dsn = postgres_server.prepare_server(folder / "postgres", print)
        spec = replace(spec, argv=(*spec.argv, *NOT_DURABLE))
        server = await asyncio.to_thread(start_server, spec, folder / "log")
        try:
            await runner.apply_missing(dsn)
            async with (
                open_backend(kafka, topic_prefix, dsn) as backend,
                start_worker(backend, dsn, "frozen") as worker,
                start_scheduler(backend, dsn, worker_silence_s=_SILENCE_S, lease_s=3_600),
            ):
                await insert_running(backend, "frozen")
                await wait_for_scheduler_reports(backend)
                await worker.freeze()
                await asyncio.to_thread(stop_server, spec, server)
                server = await asyncio.to_thread(start_server, spec, folder / "log")
                await wait_for_scheduler_reports(backend)
                (job,) = await execute(dsn, "SELECT status FROM blog_generations")
        finally:
            await asyncio.to_thread(stop_server, spec, server)
    assert job["status"] == "PROCESSING"
