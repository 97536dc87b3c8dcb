"""Cheap deadlines for frequent operations: blocks that are due in the same 50 ms share a timer.

`asyncio.timeout` sets and clears a timer for each block, which takes longer than checking a
request. These deadlines are up to 50 ms late.
"""

import asyncio
from types import TracebackType

_TICK_S = 0.05


class Deadlines:
    """Deadlines of the running event loop. Looking the loop up each time is a system call."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._due: dict[int, set[Deadline]] = {}

    def within(self, seconds: float) -> "Deadline":
        """A block that raises TimeoutError after `seconds`."""
        return Deadline(self, seconds)

    def due_together(self, seconds: float) -> "set[Deadline]":
        """The deadlines that are due together, `seconds` from now."""
        tick = int((self.loop.time() + seconds) / _TICK_S) + 1
        if tick not in self._due:
            self._due[tick] = set()
            self.loop.call_at(tick * _TICK_S, self._expire_all, tick)
        return self._due[tick]

    def _expire_all(self, tick: int) -> None:
        for deadline in self._due.pop(tick):
            deadline.expire()


class Deadline:
    """Like `asyncio.timeout`: cancels the task of its block, and raises TimeoutError instead."""

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task(self._deadlines.loop)
        assert task is not None
        self._task, self._cancelled_before = task, task.cancelling()
        self._group = self._deadlines.due_together(self._seconds)
        self._group.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._group.discard(self)
        # A cancellation from elsewhere goes on.
        if (
            self._expired
            and self._task.uncancel() <= self._cancelled_before
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the task, because its time is up."""
        self._expired = True
        self._task.cancel()
