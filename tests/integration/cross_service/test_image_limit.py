"""A small limit of images: the jobs that wait for one leave slots to the others."""

from collections.abc import Awaitable
from pathlib import Path

from services.generator import service
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.scheduler import start_scheduler

_ENDED = "SELECT count(*) FROM blog_generations WHERE instance_id = $1 AND status = 'DONE'"
_STARTED = "SELECT count(*) FROM blog_generations WHERE instance_id = $1 AND status = 'PROCESSING'"
_REASON = "SELECT reason FROM store_outlooks WHERE instance_id = $1"


async def test_small_limit_of_images_does_not_hold_up_text_only_jobs(
    backend: Backend, database: str, standins: StandIns, tmp_path: Path
) -> None:
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=tmp_path,
        replicate_rpm=6,
        concurrent_blogs=10,
        drain_s=0.1,
    )

    async def count(query: str, store: str) -> int:
        return int(await backend.database.fetchval(query, store))

    async with (
        start_scheduler(backend, database),
        running_service(lambda stop: service.run_worker(settings, stop, name="worker-1")),
    ):
        for _ in range(30):
            await backend.submit(make_request(store="images"))
        await eventually(lambda: _is_at_least(count(_STARTED, "images"), 1), what="image jobs")
        for _ in range(10):
            await backend.submit(make_request(store="texts", images=0))
        await eventually(
            lambda: _is_at_least(count(_ENDED, "texts"), 10), timeout=15, what="text-only jobs DONE"
        )
        assert await count(_STARTED, "images") <= 6, "more would only wait"
        await eventually(lambda: _has_reason(backend, "image budget"), what="the reason")


async def _is_at_least(count: Awaitable[int], least: int) -> bool:
    return await count >= least


async def _has_reason(backend: Backend, reason: str) -> bool:
    return bool(await backend.database.fetchval(_REASON, "images") == reason)
