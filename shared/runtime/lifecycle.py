"""Runs a service: signals, event loop (uvloop), background tasks and exit codes."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from shared import health
from shared.domain.errors import Unavailable
from shared.observability.log import get_logger

EXIT_UNAVAILABLE = 3
"""A dependency (PostgreSQL, Kafka, a setting, a port) is missing. The last log line names it."""

_GC_THRESHOLDS = (20_000, 20, 20)
"""Thresholds of Python's garbage collector. Its default of 700 new objects is for scripts; a few
requests hold that many at once.
"""

log = get_logger(__name__)


def run_service(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `main` until it returns. SIGTERM and SIGINT set the event; `main` drains and returns."""
    tune_garbage_collection()
    try:
        uvloop.run(_with_signals(main))
    except Unavailable as error:
        log.error(str(error))
        sys.exit(EXIT_UNAVAILABLE)


def tune_garbage_collection() -> None:
    """Exclude loaded objects from collection: examining them took a third of ingest's time."""
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


async def _with_signals(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    heartbeat = os.environ.get(health.HEARTBEAT_VARIABLE)
    async with background_tasks(
        stop, **({"heartbeat": health.keep_heartbeat(Path(heartbeat))} if heartbeat else {})
    ):
        await main(stop)


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, or for `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


@asynccontextmanager
async def background_tasks(
    stop: asyncio.Event, **loops: Coroutine[None, None, None]
) -> AsyncIterator[None]:
    """Run named loops beside a block.

    A loop that fails is logged, stops the service, and raises its error at the end of the block: a
    service must not go on without its heartbeats, for example.
    """
    tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]

    def stop_on_failure(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error(
                "background loop failed, stopping",
                loop=task.get_name(),
                exc_info=task.exception(),
            )
            stop.set()

    for task in tasks:
        task.add_done_callback(stop_on_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
