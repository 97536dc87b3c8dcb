"""Starts the processes of a system in order, restarts them on exit, stops them in reverse."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from sandbox.system.process import ProcessExit
from shared.domain.errors import Unavailable

_MAX_RESTARTS = 5
_RESTART_WINDOW_S = 60.0


class SupervisedProcess(Protocol):
    """A process that the supervisor starts, watches and stops."""

    name: str

    @property
    def pid(self) -> int | None: ...

    async def start(self) -> None:
        """Return once it is ready; raise `Unavailable` otherwise."""

    async def stop(self) -> int: ...

    async def wait_until_exit(self) -> ProcessExit:
        """Return when it has exited."""


def may_restart(exits: Sequence[float], now: float) -> bool:
    """Return whether a process that exited at these times (seconds, any clock) may be restarted."""
    return sum(1 for at in exits if now - at < _RESTART_WINDOW_S) <= _MAX_RESTARTS


Stage = Sequence[SupervisedProcess] | Callable[[], Awaitable[None]]
"""Processes that start together, or an action between two such stages."""


class Supervisor:
    """Runs stages one after the other. The next stage begins once all processes of one are ready.

    It calls `report` with one line per event, and `on_change` when a pid has changed.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        report: Callable[[str], None],
        on_change: Callable[[], None],
    ) -> None:
        self._stages = stages
        self._report = report
        self._on_change = on_change
        self._started: list[SupervisedProcess] = []

    async def start_all(self) -> None:
        """Start all stages. On a failure, stop the processes that had started, then raise."""
        try:
            for stage in self._stages:
                await (stage() if callable(stage) else self._start_stage(stage))
        except BaseException:
            await self.stop_all()
            raise

    async def watch_until_stopped(self, stop: asyncio.Event) -> None:
        """Restart processes that exit until `stop` is set.

        Raises `Unavailable` when a process exits too often.
        """
        watchers = [
            asyncio.create_task(self._keep_running(process), name=f"watch {process.name}")
            for process in self._started
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({*watchers, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*watchers, stopping):
                task.cancel()
            await asyncio.gather(*watchers, stopping, return_exceptions=True)
        for task in done - {stopping}:
            await task  # raises the watcher's error

    async def stop_all(self) -> None:
        """Stop the stages in reverse order; processes of one stage stop together."""
        for stage in reversed(self._stages):
            running = [] if callable(stage) else [one for one in stage if one in self._started]
            if running:
                self._report(f"stopping {', '.join(process.name for process in running)}")
                await asyncio.gather(*(process.stop() for process in running))
        self._started.clear()

    def started(self) -> list[SupervisedProcess]:
        """Return the processes that were started and not stopped."""
        return list(self._started)

    async def _start_stage(self, stage: Sequence[SupervisedProcess]) -> None:
        tasks = [
            asyncio.create_task(self._start_process(process), name=f"start {process.name}")
            for process in stage
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_process(self, process: SupervisedProcess) -> None:
        began = time.monotonic()
        self._started.append(process)
        await process.start()
        self._on_change()
        seconds = time.monotonic() - began
        self._report(f"{process.name} is ready ({seconds:.1f} s, pid {process.pid})")

    async def _keep_running(self, process: SupervisedProcess) -> None:
        exits: list[float] = []
        while True:
            description = (await process.wait_until_exit()).describe()
            while True:
                exits.append(time.monotonic())
                if not may_restart(exits, exits[-1]):
                    raise Unavailable(f"{description}\n{process.name} keeps dying: giving up")
                self._report(f"{description}\nrestarting {process.name} (restart {len(exits)})")
                try:
                    await process.start()
                    break
                except Unavailable as error:
                    description = str(error)
            self._on_change()
            self._report(f"{process.name} is back (pid {process.pid})")
