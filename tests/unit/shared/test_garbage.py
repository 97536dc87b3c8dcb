"""Garbage is collected on a schedule, and by Python afterwards."""

import asyncio
import gc
import weakref

from shared.runtime import garbage
from tests.support.eventually import eventually


class Cycle:
    """Refers to itself, so only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


async def test_schedule_replaces_collections_of_python_until_cancelled() -> None:
    collecting = asyncio.create_task(garbage.collect_on_schedule())
    await eventually(lambda: not gc.isenabled())
    gone = weakref.ref(Cycle())
    assert gone() is not None, "no collection has run yet"
    await eventually(lambda: gone() is None)
    collecting.cancel()
    await asyncio.wait([collecting])
    assert gc.isenabled()
