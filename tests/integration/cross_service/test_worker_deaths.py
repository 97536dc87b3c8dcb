"""A killed worker's job runs elsewhere within seconds; a frozen worker's job stays with it.

The leases last ten minutes, so that only the leader's failure detector can return a job.
"""

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from shared.domain.messages import BlogRequested, WorkerReport
from shared.kafka.topics import GENERATION, WORKERS
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.processes import WorkerProcess, start_workers
from tests.support.scheduler import start_scheduler

_LEASE_S = 600
_SILENCE_S = 2.0
_CALL_MS = 25_000
"""The first call is in progress while the second worker joins. Later calls are quick."""


@dataclass(frozen=True, slots=True)
class BusyWorker:
    """A worker process whose only job has a call in progress, and an idle worker beside it."""

    process: WorkerProcess
    job: BlogRequested


@pytest.fixture
async def busy(
    backend: Backend, database: str, standins: StandIns, tmp_path: Path
) -> AsyncIterator[BusyWorker]:
    async with (
        start_scheduler(backend, database, worker_silence_s=_SILENCE_S, lease_s=_LEASE_S),
        start_workers(backend, database, standins, tmp_path) as start_worker,
    ):
        first = await start_worker(LEASE_S=str(_LEASE_S))
        job = make_request(images=0)
        with standins.openai.latency(_CALL_MS):
            await backend.submit(job)
            await eventually(partial(_has_started_step, backend), timeout=60)
            await start_worker(LEASE_S=str(_LEASE_S))
            await eventually(partial(_has_owners, backend, 2), every=0.3, timeout=60)
        yield BusyWorker(first, job)


async def test_job_of_killed_worker_is_finished_elsewhere(
    backend: Backend, busy: BusyWorker
) -> None:
    await busy.process.kill()
    await eventually(partial(backend.has_status, busy.job.id, "DONE"), timeout=60)
    assert (await backend.row(busy.job.id))["attempt"] == 2
    assert await _count_in_doubt(backend) == 1


async def test_frozen_worker_finishes_its_job_and_no_call_is_repeated(
    backend: Backend, standins: StandIns, busy: BusyWorker
) -> None:
    """Kafka gives its partitions away: longer than the leader needs to find a dead worker."""
    busy.process.process.send_signal(signal.SIGSTOP)
    await eventually(partial(_has_owners, backend, 1), every=0.3, timeout=60)
    assert await backend.has_status(busy.job.id, "PROCESSING")
    busy.process.process.send_signal(signal.SIGCONT)
    await eventually(partial(backend.has_status, busy.job.id, "DONE"), timeout=60)
    assert (await backend.row(busy.job.id))["attempt"] == 1
    assert await _count_in_doubt(backend) == 0
    assert standins.openai.bill(busy.job.id)["steps"] == {"outline": 1, "article": 1}


async def _has_started_step(backend: Backend) -> bool:
    return bool(await backend.database.fetchval("SELECT count(*) FROM blog_steps"))


async def _has_owners(backend: Backend, count: int) -> bool:
    """Return whether the last reports divide all partitions among this many workers."""
    reports = [
        message
        for _, message in await backend.read_records(WORKERS)
        if isinstance(message, WorkerReport)
    ]
    owned = {report.worker: len(report.partitions) for report in reports}
    latest = max(reports, key=lambda report: report.at)
    if count == 1:
        return owned[latest.worker] == GENERATION.partitions
    return len(owned) == count and sum(owned.values()) == GENERATION.partitions


async def _count_in_doubt(backend: Backend) -> int:
    return int(await backend.database.fetchval("SELECT sum(in_doubt) FROM blog_steps"))
