"""The provider limiter rejects waiting calls when its quota, its circuit or its worker is gone."""

import asyncio

import pytest

from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Transient


def make_limiter() -> ProviderLimiter:
    return ProviderLimiter(provider="openai", model="m", limits={"requests": 60}, burst_s=1)


async def test_call_without_quota_is_rejected() -> None:
    limiter = make_limiter()
    limiter.assign_share((), 0, {})
    with pytest.raises(Transient, match="owns no partition"):
        await limiter.acquire({"requests": 1})


async def test_waiting_call_is_rejected_when_the_quota_moves() -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 0.001, {})
    waiting = asyncio.create_task(limiter.acquire({"requests": 1}))
    await asyncio.sleep(0)
    limiter.assign_share((), 0, {})
    with pytest.raises(Transient, match="owns no partition"):
        await waiting
    limiter.assign_share((0,), 1, {})
    assert all(state.queued == 0 for state in limiter.build_reports())


async def test_permit_expires_after_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 1, {"requests": 1})
    permit = await limiter.acquire({"requests": 1})
    assert limiter.is_valid(permit)
    later = limiter.now() + 3.1
    monkeypatch.setattr(limiter._loop, "time", lambda: later)
    assert not limiter.is_valid(permit)


async def test_closed_limiter_rejects_waiting_and_new_calls() -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 0.001, {})
    waiting = asyncio.create_task(limiter.acquire({"requests": 1}))
    await asyncio.sleep(0)
    limiter.stop_grants()
    for call in (waiting, limiter.acquire({"requests": 1})):
        with pytest.raises(Transient, match="the worker stopped") as error:
            await call
        assert (error.value.blameless, error.value.delay) == (True, 0)


async def test_outage_rejects_waiting_calls_without_blame() -> None:
    limiter = make_limiter()
    limiter.assign_share((0,), 0.001, {})
    waiting = asyncio.create_task(limiter.acquire({"requests": 1}))
    await asyncio.sleep(0)
    failures = [limiter.record_failure(limiter.now()) for _ in range(5)]
    assert failures == [False] * 4 + [True]
    with pytest.raises(Transient, match="does not serve calls") as error:
        await waiting
    assert error.value.blameless
    assert limiter.circuit_open
