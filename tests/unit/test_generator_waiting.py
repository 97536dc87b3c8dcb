"""The limiter's shell: whoever waits is let go when the budget goes."""

import asyncio

import pytest

from services.generator.limiter import ProviderLimiter
from shared.errors import Transient


def limiter() -> ProviderLimiter:
    return ProviderLimiter(provider="openai", model="m", limits={"requests": 60}, burst_s=1)


async def test_without_a_share_nobody_waits_for_ever() -> None:
    made = limiter()
    made.own((), 0, {})
    with pytest.raises(Transient, match="owns no partition"):
        await made.acquire({"requests": 1})


async def test_whoever_waits_when_the_last_partition_goes_is_told() -> None:
    made = limiter()
    made.own((0,), 0.001, {})
    waiting = asyncio.create_task(made.acquire({"requests": 1}))
    await asyncio.sleep(0)
    made.own((), 0, {})
    with pytest.raises(Transient, match="owns no partition"):
        await waiting
    made.own((0,), 1, {})
    assert all(state.queued == 0 for state in made.states())
