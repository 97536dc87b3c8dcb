"""The limiter's shell: whoever waits is let go when the budget goes."""

import asyncio

import pytest

from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Transient


def limiter() -> ProviderLimiter:
    return ProviderLimiter(provider="openai", model="m", limits={"requests": 60}, burst_s=1)


async def test_without_a_share_nobody_waits_for_ever() -> None:
    made = limiter()
    made.assign_share((), 0, {})
    with pytest.raises(Transient, match="owns no partition"):
        await made.acquire({"requests": 1})


async def test_whoever_waits_when_the_last_partition_goes_is_told() -> None:
    made = limiter()
    made.assign_share((0,), 0.001, {})
    waiting = asyncio.create_task(made.acquire({"requests": 1}))
    await asyncio.sleep(0)
    made.assign_share((), 0, {})
    with pytest.raises(Transient, match="owns no partition"):
        await waiting
    made.assign_share((0,), 1, {})
    assert all(state.queued == 0 for state in made.build_reports())


async def test_a_leave_that_was_not_used_at_once_is_void(monkeypatch: pytest.MonkeyPatch) -> None:
    made = limiter()
    made.assign_share((0,), 1, {"requests": 1})
    grant = await made.acquire({"requests": 1})
    assert made.is_valid(grant)
    later = made.now() + 3.1
    monkeypatch.setattr(made._loop, "time", lambda: later)
    assert not made.is_valid(grant)


async def test_a_worker_that_stops_sends_away_who_waits_and_who_comes() -> None:
    made = limiter()
    made.assign_share((0,), 0.001, {})
    waiting = asyncio.create_task(made.acquire({"requests": 1}))
    await asyncio.sleep(0)
    made.close()
    for refused in (waiting, made.acquire({"requests": 1})):
        with pytest.raises(Transient, match="the worker stopped") as error:
            await refused
        assert (error.value.blameless, error.value.delay) == (True, 0)


async def test_an_outage_sends_all_away_and_blames_no_job() -> None:
    made = limiter()
    made.assign_share((0,), 0.001, {})
    waiting = asyncio.create_task(made.acquire({"requests": 1}))
    await asyncio.sleep(0)
    assert [made.record_failure(made.now()) for _ in range(5)] == [False] * 4 + [True]
    with pytest.raises(Transient, match="does not serve") as error:
        await waiting
    assert error.value.blameless
    assert made.circuit_open
