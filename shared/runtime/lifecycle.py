"""A process's life: signals turned into one event, uvloop, and exit codes that mean something."""

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
"""What the service needs (PostgreSQL, Kafka, a setting, a port) is missing; the last log line says what."""

_COLLECT = (20_000, 20, 20)
"""New objects before the youngest are looked through, and how often that is before the older are. Python's own 700 is
for scripts: that many are alive in a few requests at once."""

log = get_logger(__name__)


def run_service(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `main` until it returns; SIGTERM and SIGINT set the event, and `main` then drains and returns."""
    tune_garbage_collection()
    try:
        uvloop.run(_with_signals(main))
    except Unavailable as error:
        log.error(str(error))
        sys.exit(EXIT_UNAVAILABLE)


def tune_garbage_collection() -> None:
    """What is loaded by now stays: to look through it for garbage, over and over, took a third of ingest's time."""
    gc.freeze()
    gc.set_threshold(*_COLLECT)


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
    """Return when the event is set, or when so many seconds have passed."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


@asynccontextmanager
async def background_tasks(
    stop: asyncio.Event, **loops: Coroutine[None, None, None]
) -> AsyncIterator[None]:
    """Run endless loops beside a block, by name. One that breaks is said, stops the service, and is raised at the end:
    a service must not go on without its leases, say."""
    tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("a loop broke: stopping", loop=task.get_name(), exc_info=task.exception())
            stop.set()

    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
