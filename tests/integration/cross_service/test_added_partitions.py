"""Partitions are added while jobs run: every job ends once, some of them on the new partitions."""

import asyncio
from pathlib import Path

import pytest

from services.generator import service
from shared.domain.messages import EventKind, JobEvent, WorkerReport
from shared.kafka import clients, publisher
from shared.kafka.topics import RESULTS, WORKERS
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.scheduler import start_scheduler

_BEFORE, _AFTER, _JOBS = 24, 60, 30


async def test_jobs_use_the_partitions_added_while_they_run(
    backend: Backend,
    database: str,
    standins: StandIns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (clients, publisher):
        monkeypatch.setattr(module, "METADATA_MAX_AGE_MS", 1_000)
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=tmp_path,
        concurrent_blogs=200,
    )
    raised = backend.settings.model_copy(update={"generation_partitions": _AFTER})
    jobs, rejected_before = _JOBS, standins.openai.rejected()
    async with (
        start_scheduler(backend, database),
        running_service(lambda stop: service.run_worker(settings, stop, name="worker-1")),
    ):
        await eventually(lambda: _reported_partitions(backend, _BEFORE), every=0.2)
        for number in range(_JOBS):
            await backend.submit(make_request(store=f"s{number % 9}", images=0))
        await asyncio.gather(clients.ensure_topics(raised), clients.ensure_topics(raised))
        await eventually(lambda: _reported_partitions(backend, _AFTER), every=0.2)
        async with asyncio.timeout(60):  # until the scheduler knows the added partitions
            while not await _added_partitions_in_use(backend):
                jobs += 1
                await backend.submit(make_request(store=f"s{jobs % 9}", images=0))
                await asyncio.sleep(0.1)
        done = "SELECT count(*) = $1 FROM blog_generations WHERE status = 'DONE'"
        await eventually(lambda: backend.database.fetchval(done, jobs), timeout=150, every=0.5)
    events = [message for _, message in await backend.read_records(RESULTS)]
    ended = {
        event.event_id()
        for event in events
        if isinstance(event, JobEvent) and event.kind is EventKind.ENDED
    }
    assert len(ended) == jobs
    assert standins.openai.rejected() == rejected_before


async def _reported_partitions(backend: Backend, total: int) -> bool:
    """Return whether the latest report is from a worker with this many partitions."""
    reports = [
        message
        for _, message in await backend.read_records(WORKERS)
        if isinstance(message, WorkerReport)
    ]
    return bool(reports) and (len(reports[-1].partitions), reports[-1].total_partitions) == (
        total,
        total,
    )


async def _added_partitions_in_use(backend: Backend) -> bool:
    query = "SELECT count(*) > 0 FROM blog_generations WHERE forwarded_partition >= $1"
    return bool(await backend.database.fetchval(query, _BEFORE))
