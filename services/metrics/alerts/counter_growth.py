"""The growth of a counter within a time window, from its successive values."""

from collections import deque
from datetime import datetime, timedelta


class CounterGrowth:
    """The first value is the base.

    A value smaller than the one before means that the counter restarted at zero.
    """

    def __init__(self, *, minutes: float) -> None:
        self._window = timedelta(minutes=minutes)
        self._last: int | None = None
        self._steps: deque[tuple[datetime, int]] = deque()

    def record(self, value: int | None, now: datetime) -> int | None:
        """Record a value. Returns the growth within the window; `None` before the first value."""
        if value is not None:
            before = value if self._last is None else self._last
            if step := value - before if value >= before else value:
                self._steps.append((now, step))
            self._last = value
        while self._steps and now - self._steps[0][0] > self._window:
            self._steps.popleft()
        return None if self._last is None else sum(step for _, step in self._steps)
