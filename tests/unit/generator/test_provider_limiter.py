"""The provider limiter rejects waiting calls when its quota, its circuit or its worker is gone."""

import asyncio
from uuid import UUID

import pytest

from services.generator.providers.outcomes.outcome import Outcome, OutcomeKind
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Transient

JOB, OTHER = UUID(int=1), UUID(int=2)


def record(
    limiter: ProviderLimiter,
    kind: OutcomeKind,
    job: UUID,
    *,
    call: str = "outline",
    requested_at: float | None = None,
) -> Outcome:
    """Record an outcome of a call that began now, or at `requested_at`."""
    return limiter.record_outcome(
        Outcome(kind=kind, code="code", reason="the words"),
        job=job,
        call=call,
        requested_at=limiter.now() if requested_at is None else requested_at,
    )


def make_limiter() -> ProviderLimiter:
    return ProviderLimiter(
        provider="openai",
        model="m",
        endpoint="https://api.example/v1",
        limits={"requests": 60},
        burst_s=1,
    )


async def test_call_without_quota_is_rejected() -> None:
    limiter = make_limiter()
    limiter.assign_share((), 0, {})
    with pytest.raises(Transient, match="owns no partition"):
        await limiter.acquire({"requests": 1}, JOB)


async def test_surplus_above_the_floor_raises_the_pace() -> None:
    limiter = ProviderLimiter(
        provider="openai", model="m", limits={"requests": 60}, burst_s=1, floor=0.5
    )
    limiter.assign_share((0,), 1, {"requests": 1})
    permit = await limiter.acquire({"requests": 1}, JOB)
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}
    limiter.apply_headers(permit, headers)
    (report,) = limiter.build_reports()
    assert report.pace == pytest.approx((59 - 30) / 10, abs=0.05)


async def test_waiting_call_is_rejected_when_the_quota_moves() -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 0.001, {})
    waiting = asyncio.create_task(limiter.acquire({"requests": 1}, JOB))
    await asyncio.sleep(0)
    limiter.assign_share((), 0, {})
    with pytest.raises(Transient, match="owns no partition"):
        await waiting
    limiter.assign_share((0,), 1, {})
    assert all(state.queued == 0 for state in limiter.build_reports())


async def test_calls_with_a_long_wait_go_where_the_quota_went() -> None:
    limiter = make_limiter()
    limiter.assign_share((0, 1), 1, {"requests": -1})
    waiting = [asyncio.create_task(limiter.acquire({"requests": 1}, JOB)) for _ in range(8)]
    await asyncio.sleep(0)
    limiter.pause_grants()
    limiter.assign_share((0,), 0.25, {"requests": -1})
    await asyncio.sleep(0)
    rejected = [call for call in waiting if call.done()]
    assert rejected == waiting[2:], "the first two are granted within ten seconds"
    assert isinstance(rejected[0].exception(), Transient)
    for call in waiting[:2]:
        call.cancel()


async def test_permit_expires_after_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 1, {"requests": 1})
    permit = await limiter.acquire({"requests": 1}, JOB)
    assert limiter.is_valid(permit)
    later = limiter.now() + 3.1
    monkeypatch.setattr(limiter._loop, "time", lambda: later)
    assert not limiter.is_valid(permit)


async def test_closed_limiter_rejects_waiting_and_new_calls() -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 0.001, {})
    waiting = asyncio.create_task(limiter.acquire({"requests": 1}, JOB))
    await asyncio.sleep(0)
    limiter.stop_grants()
    for call in (waiting, limiter.acquire({"requests": 1}, JOB)):
        with pytest.raises(Transient, match="the worker stopped") as error:
            await call
        assert (error.value.blameless, error.value.delay) == (True, 0)


async def test_outage_rejects_waiting_calls_without_blame() -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 0.001, {})
    waiting = asyncio.create_task(limiter.acquire({"requests": 1}, JOB))
    await asyncio.sleep(0)
    for number in range(5):
        record(limiter, OutcomeKind.OUTAGE, UUID(int=number))
    with pytest.raises(Transient, match=r"m at https://api\.example/v1: the words") as error:
        await waiting
    assert error.value.blameless
    assert limiter.circuit_open


async def test_open_circuit_names_the_address_that_rejected_the_set_up() -> None:
    limiter = make_limiter()
    outcome = Outcome(
        kind=OutcomeKind.SETUP_FAULT,
        code="code",
        reason="unknown model: no such model",
        url="https://api.example/v1/responses",
    )
    for job in (JOB, OTHER):
        limiter.record_outcome(outcome, job=job, call="outline", requested_at=limiter.now())
    (report,) = limiter.build_reports()
    assert report.open_reason == (
        "m at https://api.example/v1/responses: unknown model: no such model"
    )


async def test_unexplained_refusal_is_the_requests_fault_once_another_job_is_served() -> None:
    limiter = make_limiter()
    assert record(limiter, OutcomeKind.UNEXPLAINED, JOB).kind is OutcomeKind.UNEXPLAINED
    record(limiter, OutcomeKind.ANSWER, OTHER, call="article")
    assert record(limiter, OutcomeKind.UNEXPLAINED, JOB).kind is OutcomeKind.UNEXPLAINED
    await asyncio.sleep(0.001)
    record(limiter, OutcomeKind.ANSWER, OTHER)
    assert record(limiter, OutcomeKind.UNEXPLAINED, JOB).kind is OutcomeKind.REQUEST_FAULT
    assert not limiter.circuit_open


async def test_unexplained_refusal_of_two_jobs_is_the_set_up() -> None:
    limiter = make_limiter()
    record(limiter, OutcomeKind.UNEXPLAINED, JOB)
    outcome = record(limiter, OutcomeKind.UNEXPLAINED, OTHER)
    assert limiter.circuit_open
    error = outcome.to_error()
    assert isinstance(error, Transient)
    assert error.blameless
    assert error.delay == pytest.approx(15 + 10, abs=0.1)


async def test_set_up_fault_of_one_job_is_its_own_once_three_others_are_served() -> None:
    limiter = make_limiter()
    record(limiter, OutcomeKind.SETUP_FAULT, JOB)
    for number, kind in (
        (10, OutcomeKind.SETUP_FAULT),
        (11, OutcomeKind.SETUP_FAULT),
        (12, OutcomeKind.REQUEST_FAULT),
    ):
        await asyncio.sleep(0.001)
        record(limiter, OutcomeKind.ANSWER, UUID(int=number))
        assert record(limiter, OutcomeKind.SETUP_FAULT, JOB).kind is kind
    assert not limiter.circuit_open


async def test_answers_lost_again_and_again_are_isolated_by_the_time_between_them() -> None:
    limiter = make_limiter()
    record(limiter, OutcomeKind.OUTAGE, JOB)
    for number in (10, 11, 12):
        await asyncio.sleep(0.001)
        record(limiter, OutcomeKind.ANSWER, UUID(int=number))
    assert record(limiter, OutcomeKind.OUTAGE, JOB).isolated


async def test_lost_answer_is_isolated_if_three_others_were_served_meanwhile() -> None:
    limiter = make_limiter()
    began = limiter.now()
    for number, isolated in ((10, False), (11, False), (12, True)):
        await asyncio.sleep(0.001)
        record(limiter, OutcomeKind.ANSWER, UUID(int=number))
        lost = record(limiter, OutcomeKind.OUTAGE, JOB, requested_at=began)
        assert lost.isolated is isolated
    record(limiter, OutcomeKind.OUTAGE, OTHER, requested_at=began)
    lost = record(limiter, OutcomeKind.OUTAGE, JOB, requested_at=began)
    assert not lost.isolated, "another job's answer was lost as well"


async def test_throttling_of_two_jobs_stops_all_calls_as_long_as_told() -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 1, {"requests": 1})
    told = Outcome(kind=OutcomeKind.THROTTLED, code="c", reason="r", delay=7)
    for job, cooling in ((JOB, False), (JOB, False), (OTHER, True)):
        outcome = limiter.record_outcome(told, job=job, call="outline", requested_at=limiter.now())
        assert outcome.delay == pytest.approx(7, abs=0.1)
        assert (limiter.build_reports()[0].cooling_until is not None) is cooling


def throttle(limiter: ProviderLimiter, delay: float) -> None:
    """Record throttling of two jobs, so that the account cools down for `delay` seconds."""
    told = Outcome(kind=OutcomeKind.THROTTLED, code="c", reason="r", delay=delay)
    for job in (JOB, OTHER):
        limiter.record_outcome(told, job=job, call="outline", requested_at=limiter.now())


async def test_long_cool_down_rejects_waiting_and_new_calls() -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 1, {})
    waiting = asyncio.create_task(limiter.acquire({"requests": 1}, JOB))
    await asyncio.sleep(0)
    throttle(limiter, 600)
    for call in (waiting, limiter.acquire({"requests": 1}, OTHER)):
        with pytest.raises(Transient, match="openai: the account is in a cool-down") as error:
            await call
        assert (error.value.code, error.value.blameless) == ("provider-cooling", True)
        assert error.value.delay == pytest.approx(600, abs=1)
    assert limiter.build_reports()[0].queued == 0


async def test_calls_wait_for_the_end_of_a_short_cool_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 1, {"requests": 1})
    throttle(limiter, 12)
    later = limiter.now() + 3
    monkeypatch.setattr(limiter._loop, "time", lambda: later)
    waiting = asyncio.create_task(limiter.acquire({"requests": 1}, JOB))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert limiter.build_reports()[0].queued == 1
    waiting.cancel()
