"""A circuit that opens when a provider is not to be asked: it turns the account away, or it does not serve at all.

Nothing is asked for then, but for a probe now and then.
"""

from math import inf

_ACCOUNT_FIRST_S = 60.0
_ACCOUNT_LONGEST_S = 600.0
_OUTAGE_FIRST_S = 5.0
_OUTAGE_LONGEST_S = 60.0
_FAILURES = 5
"""So many calls in a row that were not served are an outage; fewer may be bad luck."""
_PROBE_EVERY_S = 10.0


class CircuitBreaker:
    """`now` is any monotonic clock, in seconds; `asked_at` is when a call began, by the same clock."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._probe_at = -inf
        self._tripped_at = -inf
        self._failures = 0
        self.is_open = False

    def trip_account(self, now: float) -> bool:
        """The provider turns the account away. True when this is news; another time the pause doubles."""
        news = not self.is_open
        if news or now >= self._probe_at - _PROBE_EVERY_S:  # many calls may be told at once
            self._open(now, _ACCOUNT_FIRST_S, _ACCOUNT_LONGEST_S)
        return news

    def record_failure(self, asked_at: float, now: float) -> bool:
        """A call was not served: a fault of the provider's, or no answer. True when the circuit opens with it."""
        if self.is_open and asked_at < self._tripped_at:  # begun before we knew
            return False
        self._failures += 1
        if not self.is_open and self._failures < _FAILURES:
            return False
        news = not self.is_open
        self._open(now, _OUTAGE_FIRST_S, _OUTAGE_LONGEST_S)
        return news

    def record_success(self, asked_at: float) -> bool:
        """The provider has done what it was asked for. True when this is news."""
        if asked_at < self._tripped_at:  # begun before the provider said so: it proves nothing
            return False
        news, self.is_open, self._pause_s, self._failures = self.is_open, False, 0.0, 0
        return news

    def is_probe_due(self, now: float) -> bool:
        return self.is_open and now >= self._probe_at

    def allow_call(self, now: float, *, may_probe: bool = True) -> bool:
        """Whether a call may be made; an open circuit admits one probe every few seconds once its pause is over."""
        if not self.is_open:
            return True
        if now < self._probe_at or not may_probe:
            return False
        self._probe_at = now + _PROBE_EVERY_S
        return True

    def seconds_until_probe(self, now: float) -> float:
        return max(self._probe_at - now, 1.0) if self.is_open else 0.0

    def _open(self, now: float, first_s: float, longest_s: float) -> None:
        self._pause_s = min(max(self._pause_s * 2, first_s), longest_s)
        self._probe_at = now + self._pause_s
        self._tripped_at = now
        self.is_open = True
