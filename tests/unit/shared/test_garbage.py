"""Garbage is collected by the clock while metrics runs, and as Python does it afterwards."""

import asyncio
import gc
import weakref

from shared.runtime import garbage
from tests.support.eventually import eventually


class Ring:
    """Refers to itself: only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


async def test_garbage_is_collected_by_the_clock_and_by_python_again_afterwards() -> None:
    collecting = asyncio.create_task(garbage.collect_on_schedule())
    await eventually(lambda: not gc.isenabled())
    gone = weakref.ref(Ring())
    assert gone() is not None, "Python itself would not free it now"
    await eventually(lambda: gone() is None)
    collecting.cancel()
    await asyncio.wait([collecting])
    assert gc.isenabled()
