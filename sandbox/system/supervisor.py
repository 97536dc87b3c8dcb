"""Starts a system in order, keeps watch, and stops it in reverse order. It restarts nothing silently."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from sandbox.system.process import Death
from shared.domain.errors import Unavailable

_DEATHS_FORGIVEN = 5
_WITHIN_S = 60.0


class Part(Protocol):
    """Something that runs: a child process, or a server that brings its own way to start."""

    name: str

    @property
    def pid(self) -> int | None: ...

    async def start(self) -> None:
        """Return once it is ready; raise `Unavailable` otherwise."""

    async def stop(self) -> int: ...

    async def died(self) -> Death:
        """Return when it has ended."""


def may_start_again(deaths: Sequence[float], now: float) -> bool:
    """Whether a part that died at these times (seconds, any clock) deserves another start."""
    return sum(1 for at in deaths if now - at < _WITHIN_S) <= _DEATHS_FORGIVEN


Stage = Sequence[Part] | Callable[[], Awaitable[None]]
"""Parts that start together, or something to be done between two such stages."""


class Supervisor:
    """Runs stages one after the other: all parts of one start together, the next begins once they are ready.

    `say` hears one line per happening, `changed` is called when a pid has changed.
    """

    def __init__(
        self, stages: Sequence[Stage], *, say: Callable[[str], None], changed: Callable[[], None]
    ) -> None:
        self._stages = stages
        self._say = say
        self._changed = changed
        self._started: list[Part] = []

    async def start(self) -> None:
        """Start all; whatever fails to start ends the attempt, and what had started is stopped again."""
        try:
            for stage in self._stages:
                await (stage() if callable(stage) else self._start_stage(stage))
        except BaseException:
            await self.stop()
            raise

    async def watch(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set. A part that dies is named and started again, unless it keeps dying."""
        watchers = [
            asyncio.create_task(self._keep(part), name=f"watch {part.name}")
            for part in self._started
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({*watchers, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*watchers, stopping):
                task.cancel()
            await asyncio.gather(*watchers, stopping, return_exceptions=True)
        for task in done - {stopping}:
            await task  # raises what ended it

    async def stop(self) -> None:
        """Stop what runs, the last started first; parts of one stage together."""
        for stage in reversed(self._stages):
            running = [] if callable(stage) else [part for part in stage if part in self._started]
            if running:
                self._say(f"stopping {', '.join(part.name for part in running)}")
                await asyncio.gather(*(part.stop() for part in running))
        self._started.clear()

    def parts(self) -> list[Part]:
        """What was started and not stopped."""
        return list(self._started)

    async def _start_stage(self, stage: Sequence[Part]) -> None:
        tasks = [
            asyncio.create_task(self._start_one(part), name=f"start {part.name}") for part in stage
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_one(self, part: Part) -> None:
        began = time.monotonic()
        self._started.append(part)
        await part.start()
        self._changed()
        self._say(f"{part.name} is ready ({time.monotonic() - began:.1f} s, pid {part.pid})")

    async def _keep(self, part: Part) -> None:
        deaths: list[float] = []
        while True:
            story = (await part.died()).story()
            while True:
                deaths.append(time.monotonic())
                if not may_start_again(deaths, deaths[-1]):
                    raise Unavailable(f"{story}\n{part.name} keeps dying: giving up")
                self._say(f"{story}\nstarting {part.name} again ({len(deaths)})")
                try:
                    await part.start()
                    break
                except Unavailable as error:
                    story = str(error)
            self._changed()
            self._say(f"{part.name} is back (pid {part.pid})")
