"""The image provider rejects the account or asks for a long pause.

Only the jobs that need an image wait.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.generator import service
from shared.domain.messages import WorkerReport
from shared.kafka.topics import WORKERS
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.scheduler import start_scheduler


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "402"}, "provider unavailable"),
        ({"kind": "429", "retry_after": 3600}, "provider cooling down"),
    ],
)
async def test_jobs_without_image_run_while_images_are_unavailable(
    backend: Backend,
    database: str,
    standins: StandIns,
    tmp_path: Path,
    fault: dict[str, Any],
    reason: str,
) -> None:
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=tmp_path,
    )
    rejected = [make_request(), make_request()]
    warm_up = make_request(store="store-c", images=0)
    second = make_request(store="store-b")
    texts = [make_request(store="store-b", images=0) for _ in range(3)]
    for request in rejected:
        standins.replicate.script(fault | {"job": str(request.id), "count": 9})
    async with (
        start_scheduler(backend, database),
        running_service(lambda stop: service.run_worker(settings, stop, name="worker-1")),
    ):
        for request in rejected:
            await backend.submit(request)
        await eventually(lambda: _have_retried(backend), what="two rejected images")
        await eventually(lambda: _is_reported(backend), what="the report of the outage")
        # A job's way through all services gives the scheduler time to read that report.
        await backend.submit(warm_up)
        await eventually(partial(backend.has_status, warm_up.id, "DONE"))
        for request in (second, *texts):
            await backend.submit(request)
        for request in texts:
            await eventually(partial(backend.has_status, request.id, "DONE"))
        await eventually(lambda: _waits_because(backend, reason), what="the reason of the wait")
        row = await backend.row(second.id)
    assert (row["status"], row["attempt"], row["forward_count"]) == ("PENDING", 0, 0)
    standins.replicate.clear_faults()


async def _have_retried(backend: Backend) -> bool:
    """Return whether two jobs are back in the queue without a fault of theirs."""
    query = "SELECT count(*) = 2 FROM blog_generations WHERE status = 'PENDING' AND blameless > 0"
    return bool(await backend.database.fetchval(query))


async def _is_reported(backend: Backend) -> bool:
    """Return whether a worker has reported that images are unavailable."""
    return any(
        limiter.circuit_open or limiter.cooling_until is not None
        for _, message in await backend.read_records(WORKERS)
        if isinstance(message, WorkerReport)
        for limiter in message.limiters
    )


async def _waits_because(backend: Backend, reason: str) -> bool:
    query = "SELECT reason FROM store_outlooks WHERE instance_id = 'store-b'"
    return bool(await backend.database.fetchval(query) == reason)
