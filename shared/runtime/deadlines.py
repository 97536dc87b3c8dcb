"""Deadlines for what happens by the thousand: blocks whose time is up in the same twentieth of a second share a timer.

`asyncio.timeout` sets and clears one for each, which takes longer than judging a request does. These are up to 50 ms
late.
"""

import asyncio
from types import TracebackType

_TICK_S = 0.05


class Deadlines:
    """Those of the loop that runs when this is made: to ask for it every time is a system call."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._due: dict[int, set[Deadline]] = {}

    def within(self, seconds: float) -> "Deadline":
        """A block that raises TimeoutError when it takes longer."""
        return Deadline(self, seconds)

    def mates(self, seconds: float) -> "set[Deadline]":
        """Those that are due together, so many seconds from now."""
        tick = int((self.loop.time() + seconds) / _TICK_S) + 1
        if tick not in self._due:
            self._due[tick] = set()
            self.loop.call_at(tick * _TICK_S, self._end, tick)
        return self._due[tick]

    def _end(self, tick: int) -> None:
        for deadline in self._due.pop(tick):
            deadline.cut()


class Deadline:
    """What `asyncio.timeout` is: the task is cancelled, and told that it was for this."""

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._is_up = False

    def __enter__(self) -> None:
        task = asyncio.current_task(self._deadlines.loop)
        assert task is not None
        self._task, self._cancelled_before = task, task.cancelling()
        self._mates = self._deadlines.mates(self._seconds)
        self._mates.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._mates.discard(self)
        # Somebody else may have cancelled the task as well: that goes on.
        if (
            self._is_up
            and self._task.uncancel() <= self._cancelled_before
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error

    def cut(self) -> None:
        """The time is up."""
        self._is_up = True
        self._task.cancel()
