"""Decides whether a provider may be called.

The circuit opens when the provider rejects the account or fails several times in a row. While it is
open, only an occasional probe is allowed.
"""

from math import inf

_ACCOUNT_FIRST_PAUSE_S = 60.0
_ACCOUNT_MAX_PAUSE_S = 600.0
_OUTAGE_FIRST_PAUSE_S = 5.0
_OUTAGE_MAX_PAUSE_S = 60.0
_OUTAGE_FAILURES = 5
"""Consecutive failures that count as an outage."""
_PROBE_EVERY_S = 10.0


class CircuitBreaker:
    """`now` is a monotonic clock in seconds, and `requested_at` a call's start by that clock."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._probe_at = -inf
        self._tripped_at = -inf
        self._failures = 0
        self.is_open = False

    def trip_account(self, now: float) -> bool:
        """Open the circuit because the provider rejects the account.

        Returns true if the circuit was closed. A rejected probe doubles the pause.
        """
        was_closed = not self.is_open
        # Several calls may be rejected at once: they count as one.
        if was_closed or now >= self._probe_at - _PROBE_EVERY_S:
            self._open(now, _ACCOUNT_FIRST_PAUSE_S, _ACCOUNT_MAX_PAUSE_S)
        return was_closed

    def record_failure(self, requested_at: float, now: float) -> bool:
        """Record a provider error or a missing answer. Returns true if this opens the circuit."""
        if self.is_open and requested_at < self._tripped_at:  # begun before the circuit opened
            return False
        self._failures += 1
        if not self.is_open and self._failures < _OUTAGE_FAILURES:
            return False
        was_closed = not self.is_open
        self._open(now, _OUTAGE_FIRST_PAUSE_S, _OUTAGE_MAX_PAUSE_S)
        return was_closed

    def record_success(self, requested_at: float) -> bool:
        """Record a served call. Returns true if this closes the circuit."""
        if requested_at < self._tripped_at:  # begun before the circuit opened: proves nothing
            return False
        was_open, self.is_open, self._pause_s, self._failures = self.is_open, False, 0.0, 0
        return was_open

    def is_probe_due(self, now: float) -> bool:
        return self.is_open and now >= self._probe_at

    def allow_call(self, now: float, *, may_probe: bool = True) -> bool:
        """Return whether a call may be made.

        After its pause an open circuit allows one probe every 10 s.
        """
        if not self.is_open:
            return True
        if now < self._probe_at or not may_probe:
            return False
        self._probe_at = now + _PROBE_EVERY_S
        return True

    def seconds_until_probe(self, now: float) -> float:
        """Return the seconds until the next probe, at least 1, or 0 if the circuit is closed."""
        return max(self._probe_at - now, 1.0) if self.is_open else 0.0

    def _open(self, now: float, first_s: float, max_s: float) -> None:
        self._pause_s = min(max(self._pause_s * 2, first_s), max_s)
        self._probe_at = now + self._pause_s
        self._tripped_at = now
        self.is_open = True
