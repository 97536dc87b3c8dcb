"""The steps' rows when two attempts meet: what is paid for is saved, added up, and never undone by the other."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from services.generator.jobs.repository import Lease, LeaseLostError, GenerationRepository
from services.generator.quota.rules import Permit, Reservation
from shared.domain.job import Step
from shared.domain.messages import Usage
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, make_request

PAID = Usage(input_tokens=10, output_tokens=20, cost_nanousd=30)
FREE = Usage()


@pytest.fixture
async def store(database: str) -> AsyncIterator[GenerationRepository]:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    async with await open_pool(settings, name="worker") as pool:
        yield GenerationRepository(pool, worker="worker", lease_s=60)


async def claimed(backend: Backend, store: GenerationRepository) -> Lease:
    request = make_request()
    await backend.insert_dispatched(request)
    claim = await store.claim_job(request.id)
    assert claim is not None
    assert claim.attempt == 1
    return claim


async def claimed_again(backend: Backend, store: GenerationRepository, lost: Lease) -> Lease:
    """The job, given up for lost, forwarded and claimed again."""
    await backend.database.execute(
        "UPDATE blog_generations SET status = 'PENDING' WHERE id = $1", lost.job
    )
    claim = await store.claim_job(lost.job)
    assert claim is not None
    assert claim.attempt == lost.attempt + 1
    return claim


def a_grant(partition: int = 3) -> Permit:
    ticket = Reservation(needs={"requests": 1, "tokens": 700}, asked_at=0)
    return Permit(provider="openai", partition=partition, at=datetime.now(UTC), reservation=ticket)


async def two_attempts(backend: Backend, store: GenerationRepository) -> tuple[Lease, Lease]:
    first = await claimed(backend, store)
    return first, await claimed_again(backend, store, first)


async def outline(backend: Backend, claim: Lease) -> asyncpg.Record:
    row = await backend.database.fetchrow(
        "SELECT * FROM blog_steps WHERE job_id = $1 AND step = 'outline'", claim.job
    )
    assert row is not None
    return row


async def test_what_is_said_twice_is_added_once(backend: Backend, store: GenerationRepository) -> None:
    _, claim = await two_attempts(backend, store)
    await store.begin_step(claim, Step.OUTLINE, a_grant())
    for _ in range(2):
        await store.finish_step(
            claim, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "x"}
        )
    row = await outline(backend, claim)
    assert (row["state"], row["input_tokens"], row["cost_nanousd"]) == ("DONE", 10, 30)


async def test_a_late_answer_of_an_earlier_attempt_is_taken_instead_of_paying_again(
    backend: Backend, store: GenerationRepository
) -> None:
    first = await claimed(backend, store)
    await store.begin_step(first, Step.OUTLINE, a_grant())
    second = await claimed_again(backend, store, first)
    await store.finish_step(first, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "late"})
    begun = await store.begin_step(second, Step.OUTLINE, a_grant())
    assert begun.done == {"title": "late"}
    assert (await outline(backend, second))["attempt"] == 1
    with pytest.raises(LeaseLostError):
        await store.begin_step(first, Step.ARTICLE, a_grant())


async def test_a_late_failure_does_not_undo_an_answer(
    backend: Backend, store: GenerationRepository
) -> None:
    first, second = await two_attempts(backend, store)
    await store.begin_step(second, Step.OUTLINE, a_grant())
    await store.finish_step(second, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "x"})
    await store.finish_step(first, Step.OUTLINE, state="FAILED", usage=FREE)
    row = await outline(backend, second)
    assert (row["state"], row["attempt"], row["result"]) == ("DONE", 2, {"title": "x"})


async def test_two_answers_are_both_booked(backend: Backend, store: GenerationRepository) -> None:
    """A worker taken for dead was not: both have paid, and the job's bill says so."""
    first, second = await two_attempts(backend, store)
    await store.begin_step(second, Step.OUTLINE, a_grant())
    await store.finish_step(
        first, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "first"}
    )
    await store.finish_step(
        second, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "second"}
    )
    row = await outline(backend, second)
    assert (row["state"], row["cost_nanousd"], row["result"]) == ("DONE", 60, {"title": "first"})


async def test_a_call_without_an_answer_is_counted_as_in_doubt_by_the_next_attempt(
    backend: Backend, store: GenerationRepository
) -> None:
    first = await claimed(backend, store)
    assert (await store.begin_step(first, Step.OUTLINE, a_grant())).in_doubt == 0
    assert (await store.begin_step(first, Step.OUTLINE, a_grant())).in_doubt == 0, (
        "only the reply was lost: it is the same call"
    )
    second = await claimed_again(backend, store, first)
    assert (await store.begin_step(second, Step.OUTLINE, a_grant())).in_doubt == 1


async def test_calls_are_on_record_for_whoever_takes_their_partition_over(
    backend: Backend, store: GenerationRepository
) -> None:
    began = datetime.now(UTC)
    claim = await claimed(backend, store)
    early, late = a_grant(), a_grant()
    await store.begin_step(claim, Step.OUTLINE, early)
    for _ in range(2):  # said twice, when only the answer got lost
        await store.begin_step(claim, Step.ARTICLE, late)
    assert await store.spent_since({3: began, 4: began}) == {
        (3, "openai/requests"): 2,
        (3, "openai/tokens"): 1_400,
    }
    assert await store.spent_since({3: early.at}) == {
        (3, "openai/requests"): 1,
        (3, "openai/tokens"): 700,
    }
    await store.delete_old_calls()
    assert await store.spent_since({3: late.at}) == {}


async def test_attempts_that_end_through_no_fault_of_the_job_use_up_no_tries(
    backend: Backend, store: GenerationRepository
) -> None:
    claim = await claimed(backend, store)
    await store.requeue_job(claim, delay_s=0, reason="no money", blameless=True)
    await backend.database.execute(
        "UPDATE blog_generations SET forwarded_at = now() WHERE id = $1", claim.job
    )
    again = await store.claim_job(claim.job)
    assert again is not None
    assert (again.attempt, again.tries) == (2, 1)
