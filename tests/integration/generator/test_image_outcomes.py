"""What Replicate does in the wild, and what becomes of the jobs: one worker, real broker and
database, and a server that answers as Replicate."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from starlette.responses import JSONResponse, Response

from sandbox.servers.postgres import open_connection
from services.generator import service
from shared.domain.messages import BlogRequested
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import check_spend, worker_settings
from tests.support.scripted_replicate import (
    SUCCEEDED,
    Plan,
    ScriptedReplicate,
    failed,
    start_scripted_replicate,
)

STARTING, PROCESSING = {"status": "starting"}, {"status": "processing"}
_IMAGE_COST = 3_000_000


@pytest.fixture
async def server() -> AsyncIterator[ScriptedReplicate]:
    async with start_scripted_replicate() as scripted:
        yield scripted


class Jobs:
    """Dispatches jobs, and again when their pause is over, as the scheduler does."""

    def __init__(self, backend: Backend, database: str) -> None:
        self._backend = backend
        self._database = database
        self._requests: dict[UUID, BlogRequested] = {}

    def expect(self, request: BlogRequested) -> None:
        """Dispatch a job that is in the database."""
        self._requests[request.id] = request

    async def submit(self, *requests: BlogRequested) -> None:
        for request in requests:
            self.expect(request)
            await self._backend.insert_dispatched(request)

    async def dispatch_again(self, stop: asyncio.Event) -> None:
        async with open_connection(self._database) as connection:
            while not stop.is_set():
                rows = await connection.fetch(
                    "UPDATE blog_generations SET forwarded_at = now() WHERE status = 'PENDING'"
                    " AND forwarded_at IS NULL AND not_before <= now() RETURNING id"
                )
                for row in rows:
                    await self._backend.send_task(self._requests[row["id"]])
                await asyncio.sleep(0.1)

    async def wait_for(self, request: BlogRequested, status: str, within_s: float = 30) -> Any:
        """Wait for a status. Returns the job's row."""
        await eventually(
            lambda: self._backend.has_status(request.id, status),
            what=f"{request.id} {status}",
            timeout=within_s,
        )
        return await self._backend.row(request.id)

    async def image_step(self, request: BlogRequested) -> Any:
        return await self._backend.database.fetchrow(
            "SELECT * FROM blog_steps WHERE job_id = $1 AND step = 'image'", request.id
        )

    async def retry(self, request: BlogRequested) -> None:
        """Requeue an ended job, as a user's retry does."""
        await self._backend.database.execute(
            "UPDATE blog_generations SET status = 'PENDING', forwarded_at = NULL,"
            " retries = retries + 1, finished_at = NULL, error = NULL, error_code = NULL,"
            " not_before = now() WHERE id = $1",
            request.id,
        )


@pytest.fixture
async def jobs(
    backend: Backend,
    database: str,
    standins: StandIns,
    server: ScriptedReplicate,
    tmp_path: Path,
) -> AsyncIterator[Jobs]:
    """Run a worker whose images come from the scripted server within 2 s."""
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=tmp_path,
        replicate_base_url=server.url,
        replicate_timeout_s=2,
        concurrent_blogs=5,
    )
    jobs = Jobs(backend, database)
    async with _worker(settings), running_service(jobs.dispatch_again):
        yield jobs


@asynccontextmanager
async def _worker(settings: Any) -> AsyncIterator[None]:
    async with running_service(lambda stop: service.run_worker(settings, stop, name="worker-1")):
        yield


async def test_prediction_that_never_starts_is_cancelled_and_made_anew(
    jobs: Jobs, server: ScriptedReplicate, standins: StandIns
) -> None:
    request = make_request()
    server.script(request.id, Plan(views=[STARTING]), Plan())
    await jobs.submit(request)
    row = await jobs.wait_for(request, "DONE")
    assert server.cancelled == [str(request.id)]
    assert server.creations[str(request.id)] == 2
    assert (row["attempt"], row["blameless"], row["images"]) == (2, 1, 1)
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 1}
    step = await jobs.image_step(request)
    assert (step["account"], step["unusable"], step["in_doubt"]) == ("replicate", 0, 0)


async def test_prediction_that_runs_for_ever_is_paid_three_times_at_most(
    jobs: Jobs, server: ScriptedReplicate, backend: Backend
) -> None:
    request = make_request()
    server.script(
        request.id, *[Plan(views=[PROCESSING], after_cancel={"status": "canceled"})] * 3, Plan()
    )
    await jobs.submit(request)
    row = await jobs.wait_for(request, "FAILED", within_s=60)
    assert row["error_code"] == "replicate-overdue"
    assert (server.creations[str(request.id)], len(server.cancelled)) == (3, 3)
    assert (row["images"], (await jobs.image_step(request))["unusable"]) == (3, 3)
    await jobs.retry(request)
    row = await jobs.wait_for(request, "DONE")
    assert server.creations[str(request.id)] == 4, "the stuck prediction is not awaited again"
    assert row["images"] == 4
    await check_spend(backend)


async def test_deleted_prediction_of_a_dead_worker_is_created_again(
    jobs: Jobs, server: ScriptedReplicate, backend: Backend
) -> None:
    request = make_request()
    jobs.expect(request)
    await backend.database.execute(
        "WITH job AS ("
        " INSERT INTO blog_generations (id, instance_id, source_type, source_id, request,"
        " created_at, attempt, worker, not_before) VALUES ($1, $2, $3, $4, $5, $6, 1, 'dead',"
        " now()) RETURNING id)"
        " INSERT INTO blog_steps (job_id, step, state, attempt, external_id)"
        " SELECT id, 'image', 'STARTED', 1, 'deleted' FROM job",
        request.id,
        request.store,
        request.source_type,
        request.source_id,
        request,
        request.created_at,
    )
    row = await jobs.wait_for(request, "DONE")
    assert server.creations[str(request.id)] == 1
    assert (row["images"], (await jobs.image_step(request))["in_doubt"]) == (1, 1)


async def test_passing_failures_cost_no_attempt_and_no_image(
    jobs: Jobs, server: ScriptedReplicate
) -> None:
    request = make_request()
    server.script(
        request.id,
        Plan(views=[failed("Prediction interrupted; please retry (code: PA)")]),
        Plan(views=[STARTING, failed("CUDA out of memory. Tried to allocate 1.2 GiB")]),
        Plan(views=[{"status": "aborted"}]),
        Plan(views=[failed("Director: unexpected error handling prediction (E8765)")]),
        Plan(),
    )
    await jobs.submit(request)
    row = await jobs.wait_for(request, "DONE", within_s=60)
    assert (row["attempt"], row["blameless"], row["images"]) == (5, 4, 1)
    assert (await jobs.image_step(request))["cost_nanousd"] == _IMAGE_COST


async def test_single_failed_reads_delay_nobody(jobs: Jobs, server: ScriptedReplicate) -> None:
    blip = Plan(views=[STARTING, Response("<html>Bad Gateway</html>", 502), SUCCEEDED])
    for _ in range(6):
        request = make_request()
        server.script(request.id, blip)
        await jobs.submit(request)
        assert (await jobs.wait_for(request, "DONE"))["attempt"] == 1
    later = [make_request() for _ in range(6)]
    await jobs.submit(*later)
    for request in later:
        assert (await jobs.wait_for(request, "DONE", within_s=8))["attempt"] == 1


@pytest.mark.parametrize(
    "view",
    [{"status": "queued"}, JSONResponse({"detail": "broken"}, 500)],
    ids=["queued for ever", "500 for ever"],
)
async def test_one_bad_prediction_troubles_its_job_alone(
    jobs: Jobs, server: ScriptedReplicate, view: Any
) -> None:
    poison = make_request()
    server.script(poison.id, Plan(views=[STARTING, view]))
    await jobs.submit(poison)
    await eventually(lambda: server.reads[str(poison.id)] > 0)
    others = [make_request(images=index % 2) for index in range(8)]
    await jobs.submit(*others)
    for request in others:
        assert (await jobs.wait_for(request, "DONE", within_s=10))["attempt"] == 1
    await eventually(lambda: len(server.cancelled) >= 2, timeout=20)
    server.script(poison.id, Plan())
    await jobs.wait_for(poison, "DONE")


async def test_low_credit_throttle_delays_and_fails_nobody(
    jobs: Jobs, server: ScriptedReplicate
) -> None:
    server.pace_s = 2.0
    requests = [make_request() for _ in range(6)]
    await jobs.submit(*requests)
    rows = [await jobs.wait_for(request, "DONE", within_s=90) for request in requests]
    assert all(row["attempt"] == row["blameless"] + 1 for row in rows)
    assert server.creations.total() == 6
    assert 0 < server.throttled < 20


async def test_flagged_prompt_fails_its_job_at_once(
    jobs: Jobs, server: ScriptedReplicate, standins: StandIns
) -> None:
    request, other = make_request(), make_request()
    server.script(request.id, Plan(views=[failed("NSFW content detected. Try another prompt.")]))
    await jobs.submit(request, other)
    row = await jobs.wait_for(request, "FAILED")
    assert (row["error_code"], row["attempt"], row["images"]) == ("replicate-flagged", 1, 0)
    assert (await jobs.wait_for(other, "DONE"))["attempt"] == 1
    assert standins.openai.bill(request.id)["steps"] == {"outline": 1, "article": 1}


async def test_unusable_files_fail_a_job_after_three_paid_images(
    jobs: Jobs, server: ScriptedReplicate, backend: Backend
) -> None:
    request = make_request()
    server.script(request.id, Plan(files=[Response("<html>", media_type="image/png")]))
    await jobs.submit(request)
    row = await jobs.wait_for(request, "FAILED", within_s=60)
    assert row["error_code"] == "replicate-file-no-image"
    assert row["error"].startswith("gave up after 3 predictions")
    assert (server.creations[str(request.id)], row["images"]) == (3, 3)
    await check_spend(backend)


async def test_account_without_credit_delays_jobs_with_images_only(
    jobs: Jobs, server: ScriptedReplicate
) -> None:
    broke = Plan(creation=JSONResponse({"title": "Insufficient credit", "status": 402}, 402))
    waiting = [make_request(), make_request()]
    for request in waiting:
        server.script(request.id, broke)
    await jobs.submit(*waiting)
    for request in waiting:
        row = await jobs.wait_for(request, "PENDING")
        assert row["attempt"] == row["blameless"] + (row["status"] == "PROCESSING")
    text_only = make_request(images=0)
    await jobs.submit(text_only)
    assert (await jobs.wait_for(text_only, "DONE"))["attempt"] == 1
