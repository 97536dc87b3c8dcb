"""Polls a condition until it is true or a deadline has passed."""

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
    """Return the condition's first truthy value; an awaitable is awaited.

    Polls every `every` seconds. After `timeout` seconds it raises `AssertionError` with the last
    value; `what` names the condition there.
    """
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
