"""Garbage is collected by the clock, so that no request waits for long.

Python collects when so many more objects were made than freed. Here as many are freed as are made: shards come from the
disk and go, jobs are heard of and forgotten. So the count hardly grows, and when at last it does, all that came since
is looked through at once, in the middle of whatever request it may be: 27 to 110 ms at 1,000 events a second.
Looked through ten times a second it is less than one.
"""

import asyncio
import gc
from itertools import count

_EVERY_S = 0.1
_OLDER = 10
"""Of so many looks at what is new, one is at what has lived through one, too."""
_ALL = 6_000
"""Of so many, one is at everything: a third of a second with 10,000 stores, every ten minutes. What is kept lives long,
and is freed without being looked for; this is for the few cycles that grew old."""


async def collect_on_schedule() -> None:
    """Until cancelled, in place of Python's own collections."""
    gc.disable()
    try:
        for look in count(1):
            await asyncio.sleep(_EVERY_S)
            gc.collect(2 if look % _ALL == 0 else 1 if look % _OLDER == 0 else 0)
    finally:
        gc.enable()
