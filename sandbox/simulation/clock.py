"""The virtual clock: events in the order of their times, and nothing happens between them."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Action = Callable[[Any], object]

_PROGRESS_EVERY = 1 << 16


class VirtualClock:
    """Events of the same time happen in the order in which they were scheduled."""

    __slots__ = ("_events", "_number", "_stopped", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Action, Any]] = []
        self._number = 0
        self._stopped = False

    def schedule(self, at: float, action: Action, argument: Any = None) -> None:
        """Call `action(argument)` at a time in seconds, which is not in the past."""
        self._number += 1
        heappush(self._events, (at, self._number, action, argument))

    def stop(self) -> None:
        """Let no further event happen."""
        self._stopped = True

    def run(
        self,
        until: float,
        *,
        after_each: Callable[[], None] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Let events happen until the clock is stopped, `until` has passed, or none is left.

        `after_each` is called after every event, and `progress` now and then.
        """
        while self._run_some(until, after_each):
            progress()

    def _run_some(self, until: float, after_each: Callable[[], None] | None) -> bool:
        """Let some events happen. Returns whether more may."""
        events = self._events
        for _ in range(_PROGRESS_EVERY):
            if self._stopped or not events or events[0][0] > until:
                return False
            self.now, _, action, argument = heappop(events)
            action(argument)
            if after_each is not None:
                after_each()
        return True
