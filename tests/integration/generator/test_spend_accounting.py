"""The ledger of stores' months adds up to the bills: whatever is paid late, in doubt, cancelled, tried again, or
brought back after a restore."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from services.generator.jobs.repository import Lease, GenerationRepository, BlogPost
from services.ingest.auth.key_ring import Caller
from services.ingest.jobs.repository import IngestStore
from shared.domain.job import Step
from shared.domain.messages import Usage
from shared.runtime.postgres import load_queries, open_pool
from shared.runtime.settings import PostgresSettings
from tests.integration.generator.test_steps import a_grant, claimed_again
from tests.support.backend import Backend, make_request

SCHEDULER_SQL = Path(__file__).parents[3] / "services" / "scheduler" / "sql"
RECOVERY = load_queries(SCHEDULER_SQL / "recovery.sql")
SCHEDULER = load_queries(SCHEDULER_SQL / "scheduler.sql")
LEASE_S = 60
POST = BlogPost(title="Tea", slug="tea", meta_description="", html="<p>", image_url=None)


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    async with await open_pool(settings, name="worker") as opened:
        yield opened


@pytest.fixture
def store(pool: asyncpg.Pool) -> GenerationRepository:
    return GenerationRepository(pool, worker="worker", lease_s=LEASE_S)


async def claimed(backend: Backend, store: GenerationRepository, name: str) -> Lease:
    request = make_request(store=name)
    await backend.insert_dispatched(request)
    claim = await store.claim_job(request.id)
    assert claim is not None
    return claim


async def pay(
    store: GenerationRepository, claim: Lease, step: Step, cost: int, state: str = "DONE"
) -> None:
    await store.begin_step(claim, step, a_grant())
    await store.finish_step(claim, step, state=state, usage=Usage(cost_nanousd=cost), result={})


async def adds_up(backend: Backend) -> dict[str, int]:
    """The ledger, by store: the same as the steps' costs and, when nothing runs, the jobs'."""

    async def by_store(amounts: str) -> dict[str, int]:
        query = f"SELECT store, sum(cost)::bigint AS cost FROM ({amounts}) AS amounts GROUP BY 1 HAVING sum(cost) > 0"
        return {row["store"]: row["cost"] for row in await backend.database.fetch(query)}

    ledger = await by_store("SELECT instance_id AS store, spent_nanousd AS cost FROM store_spend")
    assert ledger == await by_store(
        "SELECT instance_id AS store, step.cost_nanousd AS cost"
        " FROM blog_steps AS step JOIN blog_generations AS job ON job.id = job_id"
    )
    assert ledger == await by_store(
        "SELECT instance_id AS store, cost_nanousd AS cost FROM blog_generations"
    )
    return ledger


async def test_the_ledger_is_the_sum_of_the_bills_whatever_happens(
    backend: Backend, pool: asyncpg.Pool, store: GenerationRepository
) -> None:
    done = await claimed(backend, store, "a")
    await pay(store, done, Step.OUTLINE, 30)
    await pay(store, done, Step.ARTICLE, 400)
    await store.finish_step(
        done, Step.ARTICLE, state="DONE", usage=Usage(cost_nanousd=400), result={}
    )  # said twice
    await store.complete_job(done, POST)

    failed = await claimed(backend, store, "a")
    await pay(store, failed, Step.OUTLINE, 5, state="FAILED")  # a refusal is billed, too
    await store.fail_job(failed, code="content", reason="refused")

    lost = await claimed(backend, store, "b")
    await store.begin_step(lost, Step.OUTLINE, a_grant())
    again = await claimed_again(backend, store, lost)
    await pay(store, again, Step.OUTLINE, 70)
    late = Usage(cost_nanousd=60)
    await store.finish_step(
        lost, Step.OUTLINE, state="DONE", usage=late, result={}
    )  # both were paid
    await store.requeue_job(again, delay_s=0, reason="try again")

    cancelled = await claimed(backend, store, "b")
    await store.begin_step(cancelled, Step.OUTLINE, a_grant())
    shop = Caller(store="b", name="b", key=b"hash")
    assert await IngestStore(pool).cancel(cancelled.job, shop) is not None
    await store.finish_step(
        cancelled, Step.OUTLINE, state="DONE", usage=Usage(cost_nanousd=8), result={}
    )
    await store.release_cancelled(cancelled)

    assert await adds_up(backend) == {"a": 435, "b": 138}


async def test_a_call_under_way_is_waited_for_and_billed_however_often_its_job_is_cancelled(
    backend: Backend, pool: asyncpg.Pool, store: GenerationRepository
) -> None:
    """Else the second retry begins beside a call that is paid for, and pays for it again."""
    ingest, shop = IngestStore(pool), Caller(store="a", name="a", key=b"hash")
    claim = await claimed(backend, store, "a")
    await store.begin_step(claim, Step.OUTLINE, a_grant())
    until = (await backend.row(claim.job))["lease_until"]
    for _ in range(2):
        assert await ingest.cancel(claim.job, shop) is not None
        assert await ingest.retry(claim.job, shop) is not None
        assert (await backend.row(claim.job))["not_before"] == until
    assert await ingest.cancel(claim.job, shop) is not None
    await store.finish_step(
        claim, Step.OUTLINE, state="DONE", usage=Usage(cost_nanousd=8), result={}
    )
    assert await store.release_cancelled(claim) is None, "of a later attempt it can say nothing"
    (told,) = await backend.database.fetch(
        SCHEDULER["let_go_lost"], -2 * LEASE_S
    )  # the lease has ended
    assert (told["id"], told["in_doubt"]) == (claim.job, 0)
    assert await adds_up(backend) == {"a": 8}


async def test_what_a_restore_has_lost_is_booked_with_the_bill(
    backend: Backend, store: GenerationRepository
) -> None:
    claim = await claimed(backend, store, "a")
    await pay(store, claim, Step.OUTLINE, 30)
    await backend.database.execute(RECOVERY["bill"], claim.job, 2, 0, 0, 0, 100)
    await backend.database.execute(
        RECOVERY["correct"], claim.job, "FAILED", 2, datetime.now(UTC), "restored"
    )
    fresh = make_request(store="b")
    await backend.insert_dispatched(fresh)
    await backend.database.execute(RECOVERY["bill"], fresh.id, 1, 0, 0, 0, 9)
    await backend.database.execute(
        RECOVERY["correct"], fresh.id, "FAILED", 1, datetime.now(UTC), "restored"
    )
    assert await adds_up(backend) == {"a": 130, "b": 9}


async def test_a_month_keeps_what_was_paid_in_it(backend: Backend, store: GenerationRepository) -> None:
    claim = await claimed(backend, store, "a")
    await pay(store, claim, Step.OUTLINE, 30)
    await backend.database.execute(
        "UPDATE store_spend SET month = month - interval '1 month'"
    )  # a month goes by
    await pay(store, claim, Step.ARTICLE, 400)
    await store.complete_job(claim, POST)
    months = await backend.database.fetch("SELECT spent_nanousd FROM store_spend ORDER BY month")
    assert [row["spent_nanousd"] for row in months] == [30, 400]
    assert await adds_up(backend) == {"a": 430}
