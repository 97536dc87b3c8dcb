"""Under any plan of provider faults every job ends rightly, others are not delayed, bills agree.

Scheduler and two workers run with a real broker and database. The pauses between attempts are short
here: their length is tested with the rules.

PROVIDER_FAULT_PLANS=20 plays twenty other plans.
"""

import os
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from uuid import UUID

import pytest

from services.generator import service
from services.generator.jobs import rules
from shared.domain.messages import BlogRequested
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import check_spend, worker_settings
from tests.support.provider_faults import FaultPlan, JobPlan, draw_plan
from tests.support.scheduler import start_scheduler

_JOBS = 8
_MOST_UNPAID_PREDICTIONS = 2
"""Failed and aborted predictions, which the stand-in lists and Replicate does not bill."""
_FIRST_SEEDS = (1, 2)
_MORE = int(os.environ.get("PROVIDER_FAULT_PLANS", "0"))
SEEDS = range(1_000, 1_000 + _MORE) if _MORE else _FIRST_SEEDS


@pytest.fixture
async def system(
    backend: Backend,
    database: str,
    standins: StandIns,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Backend]:
    monkeypatch.setattr(rules, "_FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(rules, "_IN_DOUBT_PAUSE_S", 0.1)
    settings = worker_settings(
        bootstrap=backend.settings.kafka_bootstrap_servers,
        prefix=backend.settings.kafka_topic_prefix,
        database=database,
        standins=standins,
        folder=tmp_path,
    )
    async with (
        start_scheduler(backend, database),
        running_service(lambda stop: service.run_worker(settings, stop, name="worker-1")),
        running_service(lambda stop: service.run_worker(settings, stop, name="worker-2")),
    ):
        yield backend
    standins.openai.clear_faults()
    standins.replicate.clear_faults()


async def submit(system: Backend, plans: Sequence[JobPlan]) -> list[BlogRequested]:
    requests = [make_request(store=plan.store, images=plan.images) for plan in plans]
    for request in requests:
        await system.submit(request)
    return requests


async def wait_for_end(system: Backend, job: UUID) -> str:
    row = await eventually(
        partial(
            system.database.fetchrow,
            "SELECT status, error FROM blog_generations"
            " WHERE id = $1 AND status IN ('DONE', 'FAILED', 'CANCELLED')",
            job,
        ),
        what=f"the end of {job}",
        timeout=120,
    )
    assert row is not None
    return f"{row['status']}: {row['error']}" if row["error"] else str(row["status"])


async def median_seconds(system: Backend, requests: Sequence[BlogRequested]) -> float:
    """Wait until all jobs are DONE. Return the median time from request to end."""
    for request in requests:
        assert await wait_for_end(system, request.id) == "DONE"
    rows = [await system.row(request.id) for request in requests]
    seconds = [(row["finished_at"] - row["created_at"]).total_seconds() for row in rows]
    return float(median(seconds))


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_job_ends_rightly_under_a_plan_of_faults(
    system: Backend, standins: StandIns, seed: int
) -> None:
    plan = draw_plan(seed, jobs=_JOBS)
    alone = await median_seconds(system, await submit(system, plan.quiet))
    troubled = await _submit_troubled(system, standins, plan)
    beside = await median_seconds(system, await submit(system, plan.quiet))
    for request, job in zip(troubled, plan.troubled, strict=True):
        ended = await wait_for_end(system, request.id)
        assert ended.startswith(job.status), f"seed {seed}, {job}: {ended}"
    assert beside <= 2 * alone + 1, "a store without faults waits for the others"
    await check_spend(system)
    for request in troubled:
        await _check_bill(system, standins, request.id)


async def _submit_troubled(
    system: Backend, standins: StandIns, plan: FaultPlan
) -> list[BlogRequested]:
    """Script the faults of each job before it is submitted."""
    requests = [make_request(store=job.store, images=job.images) for job in plan.troubled]
    for request, job in zip(requests, plan.troubled, strict=True):
        standins.openai.script(*job.text_script(request.id))
        standins.replicate.script(*job.image_script(request.id))
    for request in requests:
        await system.submit(request)
    return requests


async def _check_bill(system: Backend, standins: StandIns, job: UUID) -> None:
    """Compare the provider's bill of a job with its row. Calls in doubt may be on it or not."""
    row = await system.row(job)
    assert row["input_tokens"] + row["output_tokens"] == standins.openai.bill(job)["tokens"]
    images = standins.replicate.bill(job)["calls"]
    failed = await system.database.fetchval(
        "SELECT unusable + in_doubt FROM blog_steps WHERE job_id = $1 AND step = 'image'", job
    )
    assert row["images"] <= images <= row["images"] + (failed or 0) + _MOST_UNPAID_PREDICTIONS
