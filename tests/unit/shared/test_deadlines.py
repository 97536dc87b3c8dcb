"""Deadlines that share a timer: each ends its own block, and nobody else's."""

import asyncio

import pytest

from shared.runtime.deadlines import Deadlines


async def test_a_block_that_takes_too_long_is_cut_and_its_mates_that_were_done_are_not() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    began = loop.time()
    with deadlines.within(0.01):
        pass
    with pytest.raises(TimeoutError), deadlines.within(0.01):
        await asyncio.Event().wait()
    assert loop.time() - began >= 0.01
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_all_that_are_due_together_are_cut() -> None:
    deadlines = Deadlines()

    async def wait() -> None:
        with deadlines.within(0.01):
            await asyncio.Event().wait()

    outcomes = await asyncio.gather(*(wait() for _ in range(100)), return_exceptions=True)
    assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)


async def test_a_cancelled_task_stays_cancelled() -> None:
    deadlines, within = Deadlines(), asyncio.Event()

    async def wait() -> None:
        with deadlines.within(60):
            within.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await within.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_goes_through_as_it_is() -> None:
    with pytest.raises(ValueError, match="own"), Deadlines().within(60):
        raise ValueError("own")


async def test_an_inner_deadline_ends_its_block_alone() -> None:
    deadlines = Deadlines()
    with deadlines.within(60):
        with pytest.raises(TimeoutError), deadlines.within(0.01):
            await asyncio.Event().wait()
        await asyncio.sleep(0)
