"""What several commands share: the running system of this home, and where lines go."""

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


def print_line(line: str) -> None:
    """One line to the person; to stderr, so that stdout stays for results."""
    print(line, file=sys.stderr, flush=True)


def running_home() -> tuple[Home, dict[str, Any]]:
    """The home and the state of the system that runs in it; `Unavailable` when none does."""
    home = current_home()
    state = home.read_state()
    if not state or not is_running(int(state["supervisor"])):
        left = leftovers.find_leftovers(home.path, leftovers.running_processes())
        if left:
            raise Unavailable(
                f"the supervisor of {home.path} was killed and left {len(left)} processes running;"
                " `./blogstream down` ends them, `./blogstream up` starts anew"
            )
        raise Unavailable(f"nothing runs in {home.path}; `./blogstream up` starts it")
    return home, state


def require_variable(name: str) -> str:
    """A variable of the environment, or of this home's running system."""
    value = os.environ.get(name) or current_home().read_env().get(name)
    if not value:
        raise Unavailable(f"{name} is not set, and no system has run in {current_home().path}")
    return value


def run_until_signal(main: Callable[[asyncio.Event], Awaitable[T]]) -> T:
    """Run `main` with an event that SIGINT and SIGTERM set; a second SIGINT does not wait."""

    async def guarded() -> T:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        return await main(stop)

    return asyncio.run(guarded())


def run_coroutine(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)
