"""A worker offers slots only while a text account accepts calls."""

from typing import Any, cast
from uuid import UUID

from services.generator.jobs.reporter import WorkerReporter
from services.generator.jobs.status import WorkerStatus
from services.generator.providers.outcomes.outcome import Outcome, OutcomeKind
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
        provider=name, model="m", limits={"requests": 60}, burst_s=1, serves=serves
    )
    limiter.assign_share((0,) if owned else (), 1 if owned else 0, {})
    return limiter


def record_twice(limiter: ProviderLimiter, kind: OutcomeKind, delay: float | None = None) -> None:
    """Record an outcome for two jobs."""
    outcome = Outcome(kind=kind, code="c", reason="r", delay=delay)
    for job in (UUID(int=1), UUID(int=2)):
        limiter.record_outcome(outcome, job=job, call="outline", requested_at=limiter.now())


async def offered_slots(*limiters: ProviderLimiter) -> int:
    publisher = FakePublisher()
    reporter = WorkerReporter(
        name="w",
        slots=50,
        standins=(),
        status=WorkerStatus(),
        limiters=limiters,
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


async def test_short_cool_down_and_images_take_no_slots_away() -> None:
    short, images = make_limiter("a"), make_limiter("b", serves=Need.IMAGES)
    record_twice(short, OutcomeKind.THROTTLED, 8)
    record_twice(images, OutcomeKind.THROTTLED, 600)
    assert await offered_slots(short, images) == 50


async def test_worker_with_little_quota_offers_few_slots() -> None:
    limiter = ProviderLimiter(
        provider="a",
        model="m",
        limits={"requests": 500, "tokens": 30_000},
        burst_s=1,
        largest_call={"tokens": 8_000},
    )
    slots = []
    for share in (1.0, 1 / 3, 0.0):
        limiter.assign_share((0,), share, {})
        slots.append(await offered_slots(limiter))
    assert slots == [6, 2, 1]
