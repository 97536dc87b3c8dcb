"""A process's life: signals turned into one event, uvloop, and exit codes that mean something."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

from shared.errors import Unavailable
from shared.log import get_logger

EXIT_UNAVAILABLE = 3
"""What the service needs (PostgreSQL, Kafka, a setting, a port) is missing; the last log line says what."""

log = get_logger(__name__)


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `main` until it returns; SIGTERM and SIGINT set the event, and `main` then drains and returns."""
    try:
        uvloop.run(_with_signals(main))
    except Unavailable as error:
        log.error(str(error))
        sys.exit(EXIT_UNAVAILABLE)


async def _with_signals(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await main(stop)
