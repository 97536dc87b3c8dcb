"""The rows of steps when two attempts overlap: each paid answer is saved and added up."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from services.generator.jobs.repository import (
    GenerationRepository,
    Lease,
    LeaseLostError,
    StepFailure,
)
from services.generator.quota.repository import ProviderCallRepository
from shared.domain.job import Step
from shared.domain.messages import Usage
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, make_request
from tests.support.generator import claim_again, make_permit

PAID = Usage(input_tokens=10, output_tokens=20, cost_nanousd=30)
FREE = Usage()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    async with await open_pool(settings, name="worker") as opened:
        yield opened


@pytest.fixture
def repository(pool: asyncpg.Pool) -> GenerationRepository:
    return GenerationRepository(pool, worker="worker", lease_s=60)


async def claim_new_job(backend: Backend, repository: GenerationRepository) -> Lease:
    request = make_request()
    await backend.insert_dispatched(request)
    lease = await repository.claim_job(request.id)
    assert lease is not None
    assert lease.attempt == 1
    return lease


async def claim_twice(backend: Backend, repository: GenerationRepository) -> tuple[Lease, Lease]:
    first = await claim_new_job(backend, repository)
    return first, await claim_again(backend, repository, first)


async def read_outline(backend: Backend, lease: Lease) -> asyncpg.Record:
    row = await backend.database.fetchrow(
        "SELECT * FROM blog_steps WHERE job_id = $1 AND step = 'outline'", lease.job
    )
    assert row is not None
    return row


async def test_repeated_answer_is_added_once(
    backend: Backend, repository: GenerationRepository
) -> None:
    _, lease = await claim_twice(backend, repository)
    await repository.begin_step(lease, Step.OUTLINE, make_permit())
    for _ in range(2):
        await repository.finish_step(
            lease, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "x"}
        )
    row = await read_outline(backend, lease)
    assert (row["state"], row["input_tokens"], row["cost_nanousd"]) == ("DONE", 10, 30)


async def test_late_answer_of_earlier_attempt_saves_a_call(
    backend: Backend, repository: GenerationRepository
) -> None:
    first = await claim_new_job(backend, repository)
    await repository.begin_step(first, Step.OUTLINE, make_permit())
    second = await claim_again(backend, repository, first)
    await repository.finish_step(
        first, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "late"}
    )
    begun = await repository.begin_step(second, Step.OUTLINE, make_permit())
    assert begun.done == {"title": "late"}
    assert (await read_outline(backend, second))["attempt"] == 1
    with pytest.raises(LeaseLostError):
        await repository.begin_step(first, Step.ARTICLE, make_permit())


async def test_late_failure_does_not_replace_an_answer(
    backend: Backend, repository: GenerationRepository
) -> None:
    first, second = await claim_twice(backend, repository)
    await repository.begin_step(second, Step.OUTLINE, make_permit())
    await repository.finish_step(
        second, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "x"}
    )
    await repository.finish_step(first, Step.OUTLINE, state="FAILED", usage=FREE)
    row = await read_outline(backend, second)
    assert (row["state"], row["attempt"], row["result"]) == ("DONE", 2, {"title": "x"})


async def test_costs_of_both_answers_are_added(
    backend: Backend, repository: GenerationRepository
) -> None:
    """A worker presumed dead was alive: both attempts have paid, and the job's bill shows it."""
    first, second = await claim_twice(backend, repository)
    await repository.begin_step(second, Step.OUTLINE, make_permit())
    await repository.finish_step(
        first, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "first"}
    )
    await repository.finish_step(
        second, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "second"}
    )
    row = await read_outline(backend, second)
    assert (row["state"], row["cost_nanousd"], row["result"]) == ("DONE", 60, {"title": "first"})


async def test_next_attempt_counts_unanswered_call_as_in_doubt(
    backend: Backend, repository: GenerationRepository
) -> None:
    first = await claim_new_job(backend, repository)
    assert (await repository.begin_step(first, Step.OUTLINE, make_permit())).in_doubt == 0
    assert (await repository.begin_step(first, Step.OUTLINE, make_permit())).in_doubt == 0, (
        "the same call, recorded again after its reply was lost"
    )
    second = await claim_again(backend, repository, first)
    assert (await repository.begin_step(second, Step.OUTLINE, make_permit())).in_doubt == 1


async def test_repeated_late_answer_of_a_done_step_is_added_once(
    backend: Backend, repository: GenerationRepository
) -> None:
    first, second = await claim_twice(backend, repository)
    await repository.begin_step(second, Step.OUTLINE, make_permit())
    await repository.finish_step(
        first, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "first"}
    )
    for _ in range(2):  # the acknowledgement of the commit was lost
        for lease in (first, second):
            await repository.finish_step(
                lease, Step.OUTLINE, state="DONE", usage=PAID, result={"title": "again"}
            )
    row = await read_outline(backend, second)
    assert (row["cost_nanousd"], row["result"]) == (60, {"title": "first"})


async def test_late_failure_leaves_the_later_call_started(
    backend: Backend, repository: GenerationRepository
) -> None:
    """The later call would not be in doubt after a crash, and its answer would be added twice."""
    first = await claim_new_job(backend, repository)
    await repository.begin_step(first, Step.OUTLINE, make_permit())
    second = await claim_again(backend, repository, first)
    await repository.begin_step(second, Step.OUTLINE, make_permit())
    await repository.finish_step(
        first,
        Step.OUTLINE,
        state="FAILED",
        usage=PAID,
        failure=StepFailure(unusable=True, gave_up="openai-schema"),
    )
    row = await read_outline(backend, second)
    assert (row["state"], row["attempt"], row["cost_nanousd"]) == ("STARTED", 2, 30)
    assert row["gave_up"] is None
    await repository.finish_step(second, Step.OUTLINE, state="DONE", usage=PAID, result={})
    await repository.finish_step(
        first, Step.OUTLINE, state="FAILED", usage=PAID, failure=StepFailure(unusable=True)
    )
    row = await read_outline(backend, second)
    assert (row["state"], row["cost_nanousd"], row["unusable"]) == ("DONE", 60, 1)


async def test_withdrawn_call_is_not_in_doubt(
    backend: Backend, repository: GenerationRepository
) -> None:
    first = await claim_new_job(backend, repository)
    await repository.begin_step(first, Step.OUTLINE, make_permit())
    await repository.withdraw_step(first, Step.OUTLINE)
    second = await claim_again(backend, repository, first)
    begun = await repository.begin_step(second, Step.OUTLINE, make_permit())
    assert (begun.in_doubt, begun.isolated_in_doubt) == (0, 0)


async def test_limits_of_a_step_begin_anew_with_a_users_retry(
    backend: Backend, repository: GenerationRepository
) -> None:
    first = await claim_new_job(backend, repository)
    await repository.begin_step(first, Step.OUTLINE, make_permit())
    await repository.finish_step(
        first,
        Step.OUTLINE,
        state="FAILED",
        usage=PAID,
        failure=StepFailure(in_doubt=True, isolated=True),
    )
    await repository.begin_step(first, Step.OUTLINE, make_permit())
    await repository.finish_step(
        first,
        Step.OUTLINE,
        state="FAILED",
        usage=PAID,
        failure=StepFailure(unusable=True, gave_up="openai-schema"),
    )
    saved = (await repository.load_steps(first))[Step.OUTLINE]
    assert (saved.isolated_in_doubt, saved.unusable, saved.gave_up) == (1, 1, "openai-schema")
    await backend.database.execute(
        "UPDATE blog_generations SET retries = retries + 1 WHERE id = $1", first.job
    )
    second = await claim_again(backend, repository, first)
    saved = (await repository.load_steps(second))[Step.OUTLINE]
    begun = await repository.begin_step(second, Step.OUTLINE, make_permit())
    for step in (saved, begun):
        assert (step.isolated_in_doubt, step.unusable, step.gave_up) == (0, 0, None)
    row = await read_outline(backend, second)
    assert (row["in_doubt"], row["unusable"]) == (1, 1), "the sums for bills stay"


async def test_calls_are_recorded_for_next_partition_owner(
    backend: Backend, pool: asyncpg.Pool, repository: GenerationRepository
) -> None:
    began = datetime.now(UTC)
    lease = await claim_new_job(backend, repository)
    calls = ProviderCallRepository(pool)
    early, late = make_permit(), make_permit()
    await repository.begin_step(lease, Step.OUTLINE, early)
    for _ in range(2):  # repeated after a lost reply
        await repository.begin_step(lease, Step.ARTICLE, late)
    assert await calls.spent_since({3: began, 4: began}) == {
        (3, "openai/requests"): 2,
        (3, "openai/tokens"): 1_400,
    }
    assert await calls.spent_since({3: early.granted_at}) == {
        (3, "openai/requests"): 1,
        (3, "openai/tokens"): 700,
    }
    await calls.delete_old_calls()
    assert await calls.spent_since({3: late.granted_at}) == {}


async def test_blameless_attempts_do_not_count(
    backend: Backend, repository: GenerationRepository
) -> None:
    lease = await claim_new_job(backend, repository)
    await repository.requeue_job(lease, delay_s=0, reason="no money", blameless=True)
    await backend.database.execute(
        "UPDATE blog_generations SET forwarded_at = now() WHERE id = $1", lease.job
    )
    again = await repository.claim_job(lease.job)
    assert again is not None
    assert (again.attempt, again.counted_attempts) == (2, 1)


async def test_prediction_s_id_is_saved_with_its_account_and_removed_at_its_end(
    backend: Backend, repository: GenerationRepository
) -> None:
    lease = await claim_new_job(backend, repository)
    await repository.begin_step(lease, Step.IMAGE, make_permit())
    await repository.save_external_id(lease, Step.IMAGE, "p1", account="replicate-2")
    await repository.save_external_id(lease, Step.IMAGE, "p2", account="replicate-3")
    saved = (await repository.load_steps(lease))[Step.IMAGE]
    assert (saved.external_id, saved.account, saved.unusable) == ("p1", "replicate-2", 0)
    assert 0 <= saved.age_s < 30
    await _end_prediction(repository, lease, "p1")
    saved = (await repository.load_steps(lease))[Step.IMAGE]
    assert (saved.external_id, saved.account, saved.unusable) == (None, None, 1)


async def test_end_of_another_prediction_keeps_the_id(
    backend: Backend, repository: GenerationRepository
) -> None:
    first = await claim_new_job(backend, repository)
    await repository.begin_step(first, Step.IMAGE, make_permit())
    await repository.save_external_id(first, Step.IMAGE, "p1", account="replicate")
    second = await claim_again(backend, repository, first)
    await _end_prediction(repository, second, "p0")
    saved = (await repository.load_steps(second))[Step.IMAGE]
    assert (saved.external_id, saved.unusable) == ("p1", 1)


async def test_repeated_end_of_a_prediction_is_counted_once(
    backend: Backend, repository: GenerationRepository
) -> None:
    lease = await claim_new_job(backend, repository)
    await repository.begin_step(lease, Step.IMAGE, make_permit())
    await repository.save_external_id(lease, Step.IMAGE, "p1", account="replicate")
    for _ in range(2):
        await _end_prediction(repository, lease, "p1")
    row = await backend.database.fetchrow("SELECT * FROM blog_steps WHERE job_id = $1", lease.job)
    assert row is not None
    assert (row["unusable"], row["images"], row["cost_nanousd"]) == (1, 1, 7)


async def _end_prediction(repository: GenerationRepository, lease: Lease, ended_id: str) -> None:
    await repository.finish_step(
        lease,
        Step.IMAGE,
        state="FAILED",
        usage=Usage(images=1, cost_nanousd=7),
        failure=StepFailure(unusable=True, ended_id=ended_id),
    )
