"""A worker with IMAGES=off: posts without images, and no trace of an image provider."""

from pathlib import Path

from services.generator import service
from shared.domain.messages import WorkerReport
from shared.kafka.topics import WORKERS
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings


async def test_job_that_asks_for_an_image_is_done_without(
    backend: Backend, database: str, standins: StandIns, tmp_path: Path
) -> None:
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=tmp_path,
        images=False,
        replicate_api_token=None,
    ).model_copy(update={"standins": "openai"})
    request = make_request(images=1)
    async with running_service(lambda stop: service.run_worker(settings, stop, name="worker-1")):
        await backend.insert_dispatched(request)
        await eventually(lambda: backend.has_status(request.id, "DONE"), what="a post")
    row = await backend.row(request.id)
    image = await backend.database.fetchval(
        "SELECT image_url FROM blog_posts WHERE job_id = $1", request.id
    )
    assert (row["images"], image) == (0, None)
    assert standins.replicate.bill(request.id)["calls"] == 0
    reports = [
        report
        for _, report in await backend.read_records(WORKERS)
        if isinstance(report, WorkerReport)
    ]
    assert {limiter.provider for report in reports for limiter in report.limiters} == {"openai"}
    assert {report.standins for report in reports} == {("openai",)}
