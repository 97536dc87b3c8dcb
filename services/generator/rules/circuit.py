"""A circuit that opens when the provider turns the whole account away: it has no money left, or its key is refused.

Nothing is asked for then, but for a probe now and then.
"""

from math import inf

_FIRST_S = 60.0
_LONGEST_S = 600.0
_PROBE_EVERY_S = 10.0


class Circuit:
    """`now` is any monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._probe_at = -inf
        self._tripped_at = -inf
        self.is_open = False

    def trip(self, now: float) -> bool:
        """The provider said so. True when this is news; another time the pause doubles."""
        news = not self.is_open
        if news or now >= self._probe_at - _PROBE_EVERY_S:  # many calls may be told at once
            self._pause_s = min(max(self._pause_s * 2, _FIRST_S), _LONGEST_S)
            self._probe_at = now + self._pause_s
        self.is_open = True
        self._tripped_at = now
        return news

    def close(self, asked_at: float) -> bool:
        """The provider has done what it was asked for at that time. True when this is news."""
        if asked_at < self._tripped_at:  # begun before the provider said so: it proves nothing
            return False
        news, self.is_open, self._pause_s = self.is_open, False, 0.0
        return news

    def wants_probe(self, now: float) -> bool:
        return self.is_open and now >= self._probe_at

    def admit(self, now: float) -> bool:
        """Whether a call may be made; an open circuit admits one probe every few seconds once its pause is over."""
        if not self.is_open:
            return True
        if now < self._probe_at:
            return False
        self._probe_at = now + _PROBE_EVERY_S
        return True

    def retry_in(self, now: float) -> float:
        return max(self._probe_at - now, 1.0) if self.is_open else 0.0
