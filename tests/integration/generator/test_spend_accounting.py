"""The monthly spend of stores equals the bills of their jobs.

This holds for late answers, in-doubt calls, cancellations, retries and restored databases.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from services.generator.jobs.repository import BlogPost, GenerationRepository, Lease
from services.ingest.auth.key_ring import Caller
from services.ingest.jobs.repository import JobRepository
from shared.domain.job import Step
from shared.domain.messages import Usage
from shared.runtime.postgres import load_queries, open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, make_request
from tests.support.generator import check_spend, claim_again, make_permit

SCHEDULER_DIR = Path(__file__).parents[3] / "services" / "scheduler"
RECOVERY = load_queries(SCHEDULER_DIR / "recovery" / "sql" / "recovery.sql")
SCHEDULER = load_queries(SCHEDULER_DIR / "sql" / "scheduler.sql")
LEASE_S = 60
POST = BlogPost(title="Tea", slug="tea", meta_description="", html="<p>", image_url=None)


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    async with await open_pool(settings, name="worker") as opened:
        yield opened


@pytest.fixture
def repository(pool: asyncpg.Pool) -> GenerationRepository:
    return GenerationRepository(pool, worker="worker", lease_s=LEASE_S)


async def claim_new_job(backend: Backend, repository: GenerationRepository, name: str) -> Lease:
    request = make_request(store=name)
    await backend.insert_dispatched(request)
    lease = await repository.claim_job(request.id)
    assert lease is not None
    return lease


async def pay(
    repository: GenerationRepository, lease: Lease, step: Step, cost: int, state: str = "DONE"
) -> None:
    await repository.begin_step(lease, step, make_permit())
    await repository.finish_step(
        lease, step, state=state, usage=Usage(cost_nanousd=cost), result={}
    )


async def test_spend_is_the_sum_of_all_bills(
    backend: Backend, pool: asyncpg.Pool, repository: GenerationRepository
) -> None:
    done = await claim_new_job(backend, repository, "a")
    await pay(repository, done, Step.OUTLINE, 30)
    await pay(repository, done, Step.ARTICLE, 400)
    await repository.finish_step(
        done, Step.ARTICLE, state="DONE", usage=Usage(cost_nanousd=400), result={}
    )  # repeated
    await repository.complete_job(done, POST)

    failed = await claim_new_job(backend, repository, "a")
    await pay(repository, failed, Step.OUTLINE, 5, state="FAILED")  # a refusal is billed, too
    await repository.fail_job(failed, code="content", reason="refused")

    lost = await claim_new_job(backend, repository, "b")
    await repository.begin_step(lost, Step.OUTLINE, make_permit())
    again = await claim_again(backend, repository, lost)
    await pay(repository, again, Step.OUTLINE, 70)
    late = Usage(cost_nanousd=60)
    await repository.finish_step(
        lost, Step.OUTLINE, state="DONE", usage=late, result={}
    )  # both calls are paid
    await repository.requeue_job(again, delay_s=0, reason="try again")

    cancelled = await claim_new_job(backend, repository, "b")
    await repository.begin_step(cancelled, Step.OUTLINE, make_permit())
    shop = Caller(store="b", name="b", key=b"hash")
    assert await JobRepository(pool).cancel_job(cancelled.job, shop) is not None
    await repository.finish_step(
        cancelled, Step.OUTLINE, state="DONE", usage=Usage(cost_nanousd=8), result={}
    )
    await repository.release_cancelled(cancelled)

    assert await check_spend(backend) == {"a": 435, "b": 138}


async def test_retry_waits_for_call_of_cancelled_job(
    backend: Backend, pool: asyncpg.Pool, repository: GenerationRepository
) -> None:
    """Otherwise a retry starts during a paid call and pays for it again."""
    ingest, shop = JobRepository(pool), Caller(store="a", name="a", key=b"hash")
    lease = await claim_new_job(backend, repository, "a")
    await repository.begin_step(lease, Step.OUTLINE, make_permit())
    until = (await backend.row(lease.job))["lease_until"]
    for _ in range(2):
        assert await ingest.cancel_job(lease.job, shop) is not None
        assert await ingest.retry_job(lease.job, shop) is not None
        assert (await backend.row(lease.job))["not_before"] == until
    assert await ingest.cancel_job(lease.job, shop) is not None
    await repository.finish_step(
        lease, Step.OUTLINE, state="DONE", usage=Usage(cost_nanousd=8), result={}
    )
    assert await repository.release_cancelled(lease) is None, (
        "the lease belongs to an earlier attempt"
    )
    (row,) = await backend.database.fetch(
        SCHEDULER["release_cancelled_leases"], -2 * LEASE_S, []
    )  # the lease has ended
    assert (row["id"], row["in_doubt"]) == (lease.job, 0)
    assert await check_spend(backend) == {"a": 8}


async def test_recovered_bills_are_added_to_the_spend(
    backend: Backend, repository: GenerationRepository
) -> None:
    lease = await claim_new_job(backend, repository, "a")
    await pay(repository, lease, Step.OUTLINE, 30)
    await backend.database.execute(RECOVERY["add_lost_usage"], lease.job, 2, 0, 0, 0, 100, 0)
    await backend.database.execute(
        RECOVERY["correct_job"], lease.job, "FAILED", 2, datetime.now(UTC), "restored"
    )
    fresh = make_request(store="b")
    await backend.insert_dispatched(fresh)
    await backend.database.execute(RECOVERY["add_lost_usage"], fresh.id, 1, 0, 0, 0, 9, 0)
    await backend.database.execute(
        RECOVERY["correct_job"], fresh.id, "FAILED", 1, datetime.now(UTC), "restored"
    )
    assert await check_spend(backend) == {"a": 130, "b": 9}


async def test_spend_stays_in_the_month_of_payment(
    backend: Backend, repository: GenerationRepository
) -> None:
    lease = await claim_new_job(backend, repository, "a")
    await pay(repository, lease, Step.OUTLINE, 30)
    await backend.database.execute(
        "UPDATE store_spend SET month = month - interval '1 month'"
    )  # a month goes by
    await pay(repository, lease, Step.ARTICLE, 400)
    await repository.complete_job(lease, POST)
    months = await backend.database.fetch("SELECT spent_nanousd FROM store_spend ORDER BY month")
    assert [row["spent_nanousd"] for row in months] == [30, 400]
    assert await check_spend(backend) == {"a": 430}
