"""Helpers of several commands: the running system of this home, output, signals."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sandbox.system import leftovers
from sandbox.system.home import Home, current_home, is_running
from shared.domain.errors import Unavailable

T = TypeVar("T")

WAIT_FACTOR = 2.5
"""A command waits this many times as long as it estimates: calls reserve more tokens than they use.
"""


def describe_run(blogs: int, seconds: float, limit: str) -> str:
    """Say how long a number of blogs takes, and which limit decides."""
    duration = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return f"{blogs} blogs take about {duration} by the rate limits ({limit} is the tightest)"


def print_line(line: str) -> None:
    """Print a message to stderr. stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def require_running_home() -> tuple[Home, dict[str, Any]]:
    """Return the home and the state of its running system; raise `Unavailable` without one."""
    home = current_home()
    state = home.read_state()
    if not state or not is_running(int(state["supervisor"])):
        left = leftovers.find_leftovers(home.path, leftovers.running_processes())
        if left:
            raise Unavailable(
                f"the supervisor of {home.path} was killed and left {len(left)} processes running;"
                " `./blogstream down` stops them, `./blogstream up` starts a new system"
            )
        raise Unavailable(f"nothing runs in {home.path}; `./blogstream up` starts it")
    return home, state


def is_system_running() -> bool:
    """Return whether a system runs in this home."""
    state = current_home().read_state()
    return bool(state) and is_running(int(state["supervisor"]))


def require_variable(name: str) -> str:
    """Return a variable of the environment or of this home; raise `Unavailable` without it."""
    value = os.environ.get(name) or current_home().read_env().get(name)
    if not value:
        raise Unavailable(f"{name} is not set, and no system has run in {current_home().path}")
    return value


def run_until_signal(main: Callable[[asyncio.Event], Awaitable[T]]) -> T:
    """Run `main` with an event that SIGINT and SIGTERM set."""

    async def with_signals() -> T:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await main(stop)

    return asyncio.run(with_signals())


def run_coroutine(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in a new event loop."""
    return asyncio.run(main)
