"""Waiting for what must become true: polls with a deadline, and says what was last seen when it did not."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    condition: Callable[[], Awaitable[T]], *, timeout: float = 30, every: float = 0.05, what: str = ""
) -> T:
    """The condition's first truthy value. Fails with the last value after `timeout` seconds."""
    give_up = time.monotonic() + timeout
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"{what or 'the condition'} did not come true in {timeout} s; last: {value!r}")
        await asyncio.sleep(every)
