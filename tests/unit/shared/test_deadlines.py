"""Deadlines that share a timer: each ends its own block only."""

import asyncio

import pytest

from shared.runtime.deadlines import Deadlines


async def test_late_block_times_out_and_finished_blocks_do_not() -> None:
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


async def test_every_block_of_a_shared_timer_times_out() -> None:
    deadlines = Deadlines()

    async def wait() -> None:
        with deadlines.within(0.01):
            await asyncio.Event().wait()

    outcomes = await asyncio.gather(*(wait() for _ in range(100)), return_exceptions=True)
    assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)


async def test_cancelled_task_stays_cancelled() -> None:
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


async def test_error_of_the_block_is_raised_unchanged() -> None:
    with pytest.raises(ValueError, match="own"), Deadlines().within(60):
        raise ValueError("own")


async def test_inner_deadline_ends_only_its_block() -> None:
    deadlines = Deadlines()
    with deadlines.within(60):
        with pytest.raises(TimeoutError), deadlines.within(0.01):
            await asyncio.Event().wait()
        await asyncio.sleep(0)
