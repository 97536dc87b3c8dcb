"""Learns from 429 answers how many calls the provider serves, and paces the calls accordingly.

The configured limits may be higher than the real ones. 429s of two jobs lower the pace to the calls
that were served in the last minute, or to the pace of the requested delay. Each served call raises
it a little, and each further 429 lowers it (additive increase, multiplicative decrease): slowly
near the pace of the last 429, faster beyond it or many calls later, and fastest while too few
calls were served to know the pace.
"""

from collections import deque
from math import inf
from uuid import UUID

_WINDOW_S = 60.0
_MIN_PER_S = 1 / 60
_GROWTH = 1.01
"""The factor for each served call, near the pace of the last 429."""
_BELOW, _SEARCH_GROWTH = 0.6, 1.5
"""The factor far below it: too few calls were served to know the pace."""
_BEYOND, _FAST_GROWTH = 1.1, 1.1
"""The factor beyond it, or long after it: the limit is higher now."""
_LONG_CALLS = 25
_EVIDENCE_CALLS = 5
_DECREASE = 0.9
_FIRST_PAUSE_S = 5.0
_MAX_PAUSE_S = 600.0


class LearnedPace:
    """The pace of an account's calls, of which this worker makes its share.

    `now` is a monotonic clock in seconds. `per_s` is the account's pace, and `None` while no 429
    limits the calls.
    """

    def __init__(self) -> None:
        self.per_s: float | None = None
        self.share = 1.0
        """This worker's part of the account (0 to 1)."""
        self._refused_per_s = inf
        """The pace at the last 429, as far as known."""
        self._served: deque[float] = deque()
        self._last_call_at = -inf
        self._reduced_at = -inf
        self._throttled_job: UUID | None = None
        self._throttled_at = -inf
        self._throttled_in_a_row = 0
        self._calls_keep_pace = False

    def record_call(self, now: float) -> None:
        """Record that a call was granted."""
        if self.per_s is not None:
            self._calls_keep_pace = now - self._last_call_at < 2 * self._interval_s(self.per_s)
        self._last_call_at = now

    def record_served(self, now: float, *, ceiling_per_s: float) -> None:
        """Record a served call. A pace of `ceiling_per_s`, the configured one, needs no learning.

        Calls slower than the pace do not show that a higher one would be served.
        """
        self._throttled_in_a_row = 0
        self._served.append(now)
        self._forget_old(now)
        if self.per_s is not None and self._calls_keep_pace:
            self.per_s *= self._growth(self.per_s, now)
            if self.per_s >= ceiling_per_s:
                self.per_s = None

    def record_throttled(
        self,
        job: UUID,
        requested_at: float,
        now: float,
        *,
        requested_delay: float | None,
    ) -> float:
        """Lower the pace after a 429. Returns the seconds without any call.

        The first 429 changes nothing until another job gets one within a minute: it may be about
        one job. A call that began before the last reduction only extends the pause.
        """
        is_isolated = job == self._throttled_job or now - self._throttled_at > _WINDOW_S
        self._throttled_job, self._throttled_at = job, now
        if self.per_s is None and is_isolated:
            return 0.0
        if requested_at > self._reduced_at:
            self._throttled_in_a_row += 1
            self._lower_pace(now, requested_delay)
        if requested_delay is not None:
            return requested_delay
        first = max(_FIRST_PAUSE_S, 1 / self.per_s) if self.per_s is not None else _FIRST_PAUSE_S
        doublings = max(self._throttled_in_a_row - 1, 0)
        return float(min(first * 2**doublings, _MAX_PAUSE_S))

    def seconds_until_call(self, now: float, before: int = 0) -> float:
        """Return the seconds until the pace allows a call, after `before` other calls."""
        if self.per_s is None:
            return 0.0
        return max(0.0, self._last_call_at + (before + 1) * self._interval_s(self.per_s) - now)

    def count_calls(self, seconds: float) -> float:
        """Return how many calls the pace allows in these seconds."""
        return inf if self.per_s is None else self.per_s * self.share * seconds

    def _interval_s(self, per_s: float) -> float:
        """Return the seconds between two calls of this worker."""
        return 1 / (per_s * self.share) if self.share > 0 else inf

    def _growth(self, per_s: float, now: float) -> float:
        if per_s < self._refused_per_s * _BELOW:
            return _SEARCH_GROWTH
        is_long_ago = now - self._reduced_at > _LONG_CALLS * self._interval_s(per_s)
        is_beyond = per_s > self._refused_per_s * _BEYOND
        return _FAST_GROWTH if is_beyond or is_long_ago else _GROWTH

    def _lower_pace(self, now: float, requested_delay: float | None) -> None:
        self._forget_old(now)
        measured = len(self._served) / _WINDOW_S / self.share if self.share > 0 else 0.0
        is_known = len(self._served) >= _EVIDENCE_CALLS
        if self.per_s is not None:
            searched = self.per_s < self._refused_per_s * _BELOW
            self._refused_per_s = self.per_s
            lowered = self.per_s / _SEARCH_GROWTH if searched else self.per_s * _DECREASE
            self.per_s = min(measured, lowered) if is_known else lowered
        elif is_known:
            self.per_s = self._refused_per_s = measured
        elif requested_delay is not None and requested_delay <= _WINDOW_S:
            self.per_s = self._refused_per_s = 1 / requested_delay
        else:
            self.per_s, self._refused_per_s = measured, inf
        self.per_s = max(self.per_s, _MIN_PER_S)
        self._reduced_at = now

    def _forget_old(self, now: float) -> None:
        while self._served and self._served[0] <= now - _WINDOW_S:
            self._served.popleft()
