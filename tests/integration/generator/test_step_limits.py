"""How often a step is repeated: over attempts that end by an outage, a crash, a drain or a bug."""

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from typing import Any, cast

import asyncpg
import pytest

from services.generator.blog.article import Article, Outline, Section
from services.generator.blog.image_storage import ImageStorage
from services.generator.blog.steps import BlogSteps
from services.generator.jobs.events import JobEventPublisher
from services.generator.jobs.repository import GenerationRepository, Lease
from services.generator.providers.accounts.pool import ImageAccountPool, TextAccountPool
from services.generator.providers.openai.outcomes import REFUSED, SCHEMA
from services.generator.providers.openai.provider import (
    TextCall,
    UnsupportedFeature,
    UnusableAnswer,
)
from services.generator.providers.outcomes.outcome import Outcome, OutcomeKind
from services.generator.providers.replicate.prediction import Prediction
from services.generator.providers.replicate.reads import GeneratedImage
from services.generator.quota.rules import Permit
from shared.domain.errors import Permanent, Transient
from shared.domain.job import Step
from shared.domain.messages import Usage
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, make_request
from tests.support.generator import claim_again, make_permit

PAID = Usage(output_tokens=1, cost_nanousd=1)
_OUTLINE = Outline(title="Tea", angle="hot", headings=["Tea"], keywords=[])
_ARTICLE = Article(
    title="Tea",
    slug="tea",
    meta_description="",
    sections=[Section(heading="Tea", paragraphs=["It is hot."])],
)


def cut_off(*, isolated: bool) -> Transient:
    return Transient("no answer in time", in_doubt=True, blameless=True, isolated=isolated)


def unusable(code: str) -> UnusableAnswer:
    return UnusableAnswer(Outcome(kind=OutcomeKind.ANSWER_FAULT, code=code, reason="no"), PAID)


class ScriptedPool:
    """Answers calls by a script. It stands for the accounts for texts, and for those for images."""

    def __init__(self) -> None:
        self.failures: Iterator[Exception | None] = iter(())
        """The failures of calls. Later calls are answered."""
        self.permits: Iterator[bool | Exception] = iter(())
        """Whether each permit is still valid when its call begins, or why there is none."""
        self.calls = 0
        self._is_valid = True

    def script(
        self,
        *failures: Exception | None,
        permits: Iterable[bool | Exception] = (),
    ) -> None:
        self.failures, self.permits, self.calls = iter(failures), iter(permits), 0

    def is_valid(self, permit: Permit) -> bool:
        return self._is_valid

    async def acquire_permit(self, *call: Any) -> Permit:
        permit = next(self.permits, True)
        if isinstance(permit, Exception):
            raise permit
        self._is_valid = permit
        return make_permit()

    def _count_call(self) -> None:
        self.calls += 1
        failure = next(self.failures, None)
        if failure is not None:
            raise failure

    async def write_text(self, call: TextCall, answer: type, permit: Permit) -> tuple[Any, Usage]:
        self._count_call()
        return (_OUTLINE if answer is Outline else _ARTICLE), PAID

    async def create_prediction(self, *call: Any) -> Prediction:
        self._count_call()
        return Prediction(id="p1", account="replicate")

    async def fetch_image(self, *call: Any) -> GeneratedImage:
        return GeneratedImage(content=b"", media_type="image/png", usage=PAID)


class _Folder:
    async def save_image(self, *image: Any) -> str:
        return "https://images.example/tea.png"


class _NoEvents:
    async def publish_step_done(self, *event: Any) -> None:
        pass


class JobUnderTest:
    """One job, its attempts and the providers' scripts."""

    def __init__(self, backend: Backend, repository: GenerationRepository, lease: Lease) -> None:
        self._backend = backend
        self.database = backend.database
        self._repository = repository
        self.lease = lease
        self.texts, self.images = ScriptedPool(), ScriptedPool()
        self._steps = BlogSteps(
            repository=repository,
            text_provider=cast(TextAccountPool, self.texts),
            image_provider=cast(ImageAccountPool, self.images),
            image_storage=cast(ImageStorage, _Folder()),
            events=cast(JobEventPublisher, _NoEvents()),
        )

    async def attempt(self) -> None:
        """Run the steps under the lease, and claim the job again if it is to be repeated."""
        try:
            await self._steps.write_post(self.lease)
        except Permanent:
            raise
        except Exception:
            await self.claim_again()
            raise

    async def claim_again(self) -> None:
        self.lease = await claim_again(self._backend, self._repository, self.lease)

    async def retry(self) -> None:
        """Claim the job again after a user's retry."""
        await self.database.execute(
            "UPDATE blog_generations SET retries = retries + 1 WHERE id = $1", self.lease.job
        )
        await self.claim_again()

    async def crash(self, step: Step) -> None:
        """Begin a call, and lose it with the worker."""
        await self._repository.begin_step(self.lease, step, make_permit())
        await self.claim_again()

    async def fail_transiently(self, times: int) -> None:
        for _ in range(times):
            with pytest.raises(Transient):
                await self.attempt()

    async def row(self, step: Step) -> asyncpg.Record:
        row = await self.database.fetchrow(
            "SELECT * FROM blog_steps WHERE job_id = $1 AND step = $2", self.lease.job, step
        )
        assert row is not None
        return row


@pytest.fixture
async def job(backend: Backend, database: str) -> AsyncIterator[JobUnderTest]:
    settings = PostgresSettings.model_validate({"database_url": database, "db_pool_min": 1})
    async with await open_pool(settings, name="worker") as pool:
        repository = GenerationRepository(pool, worker="worker", lease_s=60)
        request = make_request()
        await backend.insert_dispatched(request)
        lease = await repository.claim_job(request.id)
        assert lease is not None
        yield JobUnderTest(backend, repository, lease)


async def test_outage_followed_by_crashes_fails_no_job(job: JobUnderTest) -> None:
    job.texts.script(*[cut_off(isolated=False) for _ in range(5)])
    await job.fail_transiently(5)
    for _ in range(2):
        await job.crash(Step.OUTLINE)
    await job.attempt()
    row = await job.row(Step.OUTLINE)
    assert (row["state"], row["in_doubt"], row["isolated_in_doubt"]) == ("DONE", 7, 2)


async def test_outage_followed_by_an_isolated_loss_fails_no_job(job: JobUnderTest) -> None:
    outage = [cut_off(isolated=False) for _ in range(5)]
    job.images.script(*outage, cut_off(isolated=True))
    await job.fail_transiently(6)
    await job.attempt()
    assert (await job.row(Step.IMAGE))["in_doubt"] == 6


async def test_third_isolated_loss_fails_the_job_until_a_user_retries_it(job: JobUnderTest) -> None:
    job.texts.script(*[cut_off(isolated=True) for _ in range(3)])
    await job.fail_transiently(2)
    with pytest.raises(Permanent, match="begun 3 times") as failed:
        await job.attempt()
    assert failed.value.code == "in-doubt"
    await job.claim_again()
    with pytest.raises(Permanent, match="begun 3 times"):
        await job.attempt()
    assert job.texts.calls == 3, "the worker stopped before it failed the job: no further call"
    await job.retry()
    job.texts.script(*[cut_off(isolated=True) for _ in range(2)])
    await job.fail_transiently(2)
    await job.attempt()


async def test_third_crash_makes_no_further_call(job: JobUnderTest) -> None:
    for _ in range(3):
        await job.crash(Step.OUTLINE)
    for _ in range(2):
        with pytest.raises(Permanent, match="begun 3 times"):
            await job.attempt()
        await job.claim_again()
    assert job.texts.calls == 0
    assert (await job.row(Step.OUTLINE))["in_doubt"] == 3


@pytest.mark.parametrize("step", [Step.OUTLINE, Step.IMAGE])
async def test_expired_permit_leaves_nothing_in_doubt(job: JobUnderTest, step: Step) -> None:
    pool = job.images if step is Step.IMAGE else job.texts
    stopping = Transient("stopping", code="stopping", blameless=True)
    pool.script(permits=[False, stopping, False, True])
    await job.fail_transiently(1)
    await job.attempt()
    row = await job.row(step)
    assert (row["state"], row["in_doubt"]) == ("DONE", 0)


async def test_refused_feature_leaves_nothing_in_doubt(job: JobUnderTest) -> None:
    stopping = Transient("stopping", code="stopping", blameless=True)
    job.texts.script(UnsupportedFeature("effort"), permits=[True, stopping])
    await job.fail_transiently(1)
    await job.attempt()
    assert (await job.row(Step.OUTLINE))["in_doubt"] == 0


@pytest.mark.parametrize(("code", "answers"), [(SCHEMA, 3), (REFUSED, 2)])
async def test_job_that_gave_up_before_a_crash_pays_no_further_answer(
    job: JobUnderTest, code: str, answers: int
) -> None:
    """The worker stops while it still waits for the image."""
    job.texts.script(None, *[unusable(code) for _ in range(9)])
    for _ in range(2):
        with pytest.raises(Permanent) as failed:
            await job.attempt()
        assert failed.value.code == code
        assert job.texts.calls == 1 + answers
        await job.claim_again()
    await job.retry()
    job.texts.script(*[unusable(code) for _ in range(answers - 1)])
    await job.attempt()
    row = await job.row(Step.ARTICLE)
    assert (row["state"], row["unusable"]) == ("DONE", 2 * answers - 1)


async def test_paid_image_is_fetched_before_a_job_that_gave_up_fails(job: JobUnderTest) -> None:
    stopping = Transient("stopping", code="stopping", blameless=True)
    job.texts.script(None, permits=[True, stopping])
    job.images.script(stopping)
    await job.fail_transiently(1)
    await job.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, gave_up)"
        " VALUES ($1, 'article', 'FAILED', 1, 'openai-schema')",
        job.lease.job,
    )
    await job.database.execute(
        "UPDATE blog_steps SET state = 'STARTED', external_id = 'p1' WHERE job_id = $1"
        " AND step = 'image'",
        job.lease.job,
    )
    with pytest.raises(Permanent):
        await job.attempt()
    row = await job.row(Step.IMAGE)
    assert (row["state"], row["cost_nanousd"], job.images.calls) == ("DONE", 1, 1)


async def test_bug_in_a_paid_call_is_repeated_twice(job: JobUnderTest) -> None:
    """Nobody knows whether the call was billed."""
    job.texts.script(*[KeyError("usage") for _ in range(3)])
    for _ in range(2):
        with pytest.raises(KeyError):
            await job.attempt()
    with pytest.raises(Permanent) as failed:
        await job.attempt()
    assert failed.value.code == "internal"
    assert (await job.row(Step.OUTLINE))["in_doubt"] == 3


async def test_switched_off_images_fail_no_job_that_gave_up_on_its_image(
    job: JobUnderTest,
) -> None:
    await job.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, gave_up)"
        " VALUES ($1, 'image', 'FAILED', 1, 'replicate-flagged')",
        job.lease.job,
    )
    request = replace(job.lease.request, images=0)
    job.lease = replace(job.lease, request=request)
    await job.attempt()
