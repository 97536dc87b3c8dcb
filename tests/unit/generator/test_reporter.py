"""A worker offers slots only while a text account accepts calls."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

from services.generator.jobs.concurrency import AdaptiveConcurrency
from services.generator.jobs.reporter import WorkerReporter
from services.generator.jobs.status import WorkerStatus
from services.generator.providers.accounts.choice import Offer
from services.generator.providers.accounts.pool import TextAccountPool
from services.generator.providers.openai.provider import OpenAITextProvider
from services.generator.providers.outcomes.outcome import Outcome, OutcomeKind
from services.generator.quota.held_jobs import HeldJobs
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.messages import Need, WorkerReport
from shared.kafka.publisher import OutgoingMessage, Publisher


class FakePublisher:
    """Keeps the last report."""

    report: WorkerReport

    async def publish(self, message: OutgoingMessage, **_: Any) -> None:
        assert isinstance(message.message, WorkerReport)
        self.report = message.message


def make_limiter(name: str, *, serves: Need = Need.TEXT, owned: bool = True) -> ProviderLimiter:
    limiter = ProviderLimiter(
        provider=name, model="m", limits={"requests": 6_000}, burst_s=1, serves=serves
    )
    limiter.assign_share((0,) if owned else (), 1 if owned else 0, {})
    return limiter


def record_twice(limiter: ProviderLimiter, kind: OutcomeKind, delay: float | None = None) -> None:
    """Record an outcome for two jobs."""
    outcome = Outcome(kind=kind, code="c", reason="r", delay=delay)
    for job in (UUID(int=1), UUID(int=2)):
        limiter.record_outcome(outcome, job=job, call="outline", requested_at=limiter.now())


def make_text_pool(held: HeldJobs, limiters: Sequence[ProviderLimiter]) -> TextAccountPool:
    """Build a pool of accounts that have only limiters."""
    texts = [limiter for limiter in limiters if limiter.serves is Need.TEXT]
    accounts = [
        SimpleNamespace(name=limiter.provider, limiter=limiter, fallback=0) for limiter in texts
    ]
    offers = [Offer(name=account.name, model="m") for account in accounts]
    return TextAccountPool(cast(list[OpenAITextProvider], accounts), offers, {}, held)


async def offered_slots(*limiters: ProviderLimiter) -> int:
    publisher = FakePublisher()
    status = WorkerStatus()
    reporter = WorkerReporter(
        name="w",
        slots=50,
        standins=(),
        status=status,
        limiters=limiters,
        concurrency=AdaptiveConcurrency(status.held, make_text_pool(status.held, limiters), None),
        publisher=cast(Publisher, publisher),
    )
    await reporter.publish_report()
    return publisher.report.slots


async def test_worker_offers_no_slot_while_all_text_accounts_cool_down_long() -> None:
    first, second, standby = make_limiter("a"), make_limiter("b"), make_limiter("c", owned=False)
    record_twice(first, OutcomeKind.THROTTLED, 600)
    assert await offered_slots(first, second) == 50
    record_twice(second, OutcomeKind.ACCOUNT_FAULT)
    assert await offered_slots(first, second) == 0
    assert await offered_slots(first, second, standby) == 0, "it has no quota on this worker"


async def test_stopped_images_take_no_slots_away() -> None:
    texts, images = make_limiter("a"), make_limiter("b", serves=Need.IMAGES)
    record_twice(images, OutcomeKind.THROTTLED, 600)
    assert await offered_slots(texts, images) == 50


async def test_one_job_waits_for_the_end_of_a_short_cool_down() -> None:
    limiter = make_limiter("a")
    record_twice(limiter, OutcomeKind.THROTTLED, 8)
    assert await offered_slots(limiter) == 1


async def test_worker_accepts_the_jobs_that_its_permits_start_soon() -> None:
    """A job counts as two calls, of almost ten a second."""
    limiter = ProviderLimiter(provider="a", model="m", limits={"requests": 590}, burst_s=1)
    slots = []
    for share, level in ((1.0, 10), (1.0, 0), (0.1, 0), (0.0, 0)):
        limiter.assign_share((0,), share, {"requests": level})
        slots.append(await offered_slots(limiter))
    assert slots == [15, 10, 1, 1]
