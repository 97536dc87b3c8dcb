"""Waiting for what must become true: polls with a deadline, and says what was last seen when it did not."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]],
    *,
    timeout: float = 30,
    every: float = 0.05,
    what: str = "",
) -> T: ...


@overload
async def eventually(
    condition: Callable[[], T], *, timeout: float = 30, every: float = 0.05, what: str = ""
) -> T: ...


async def eventually(
    condition: Callable[[], Any], *, timeout: float = 30, every: float = 0.05, what: str = ""
) -> Any:
    """The condition's first truthy value, awaited if it must be. Fails with the last value after `timeout` seconds."""
    give_up = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(
                f"{what or 'the condition'} did not come true in {timeout} s; last: {value!r}"
            )
        await asyncio.sleep(every)
