"""A provider's token bucket: holds one minute's limit, refills by limit/60 per second. Pure."""


class MinuteBucket:
    def __init__(self, limit: float, now: float) -> None:
        self.limit = limit
        self._level = limit
        self._at = now

    def wait_s(self, need: float, now: float) -> float:
        """Return the seconds until `need` units are available; 0 when they already are."""
        self._refill(now)
        return max(0.0, (need - self._level) * 60 / self.limit)

    def take(self, need: float, now: float) -> None:
        self._refill(now)
        self._level -= need

    def remaining(self, now: float) -> float:
        self._refill(now)
        return max(0.0, self._level)

    def resize(self, limit: float, now: float) -> None:
        """Change the limit. The amount already used stays used."""
        self._refill(now)
        self._level += limit - self.limit
        self.limit = limit

    def full_in_s(self, now: float) -> float:
        return self.wait_s(self.limit, now)

    def _refill(self, now: float) -> None:
        self._level = min(self.limit, self._level + (now - self._at) * self.limit / 60)
        self._at = now


def go_duration(seconds: float) -> str:
    """Format a duration as OpenAI does: 8ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{text}s" if minutes else f"{text}s"
