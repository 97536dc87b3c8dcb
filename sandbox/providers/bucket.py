"""A provider's token bucket: by default it holds one period's limit and refills evenly. Pure."""


class MinuteBucket:
    """Refills by `limit` a minute up to `burst` units, or up to `limit` without a burst."""

    period_s = 60.0

    def __init__(self, limit: float, now: float, burst: float | None = None) -> None:
        self.limit = limit
        self._capacity = burst or limit
        self._level = self._capacity
        self._at = now

    def wait_s(self, need: float, now: float) -> float:
        """Return the seconds until `need` units are available; 0 when they already are."""
        self._refill(now)
        return max(0.0, (need - self._level) * self.period_s / self.limit)

    def take(self, need: float, now: float) -> None:
        self._refill(now)
        self._level -= need

    def remaining(self, now: float) -> float:
        self._refill(now)
        return max(0.0, self._level)

    def resize(self, limit: float, now: float, burst: float | None = None) -> None:
        """Change the limit. What was used stays used, but a lower limit leaves no debt."""
        self._refill(now)
        capacity = burst or limit
        level = self._level + capacity - self._capacity
        self._level = max(level, min(self._level, 0.0))
        self.limit, self._capacity = limit, capacity

    def full_in_s(self, now: float) -> float:
        return self.wait_s(self._capacity, now)

    def _refill(self, now: float) -> None:
        if now == self._at:
            return
        gained = (now - self._at) * self.limit / self.period_s
        self._level = min(self._capacity, self._level + gained)
        self._at = now


class DayBucket(MinuteBucket):
    """Refills by `limit` a day."""

    period_s = 86_400.0


def go_duration(seconds: float) -> str:
    """Format a duration as OpenAI does: 8ms, 1s, 6m0s, 5h12m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
