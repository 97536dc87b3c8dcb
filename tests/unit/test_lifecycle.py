"""Loops beside a service: one that breaks ends the service, and is not forgotten."""

import asyncio

import pytest

from shared.lifecycle import background


async def endless() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise RuntimeError("broke")


async def test_loops_end_with_their_block() -> None:
    stop = asyncio.Event()
    async with background(stop, one=endless(), other=endless()):
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert {"one", "other"} <= names
    assert not stop.is_set()
    assert not {"one", "other"} & {task.get_name() for task in asyncio.all_tasks()}


async def test_a_loop_that_breaks_stops_the_service_and_is_raised() -> None:
    stop = asyncio.Event()
    with pytest.raises(RuntimeError, match="broke"):
        async with background(stop, one=endless(), other=broken()):
            await stop.wait()
