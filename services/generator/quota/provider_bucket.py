"""Models the provider's own token bucket from its headers, to set the pace of a shared account.

The bucket holds the limit of one minute and refills continuously. Each answer reports the level at
the time when the call was admitted. Between answers the level is extrapolated: the refill, minus
this worker's spend, minus the spend of the other workers at the same pace. All workers see the same
bucket, so all slow down and speed up alike without coordination.
"""

_TARGET_LEVEL = 0.75
"""The part of the bucket at which the pace is 1. The rest is room for bursts and surprises."""
_MAX_PACE = 2.5
"""The pace with a full bucket. Reservations are upper bounds, and headers show the unused part."""
_MIN_PACE = 0.02
_LEARN_EVERY_S = 5.0


class ProviderBucket:
    """The bucket of one resource. `limit` is the configured limit in units a minute."""

    def __init__(self, limit: float) -> None:
        self.configured_limit = limit
        self._capacity = limit
        self._level: float | None = None
        """`None` before the first header."""
        self._drain = 0.0
        """The unexplained outflow in units a second.

        Another application drains the bucket; a negative value means that calls use less than their
        reservations."""
        self._unexplained = self._observed_s = 0.0
        self.accrued = 0.0
        """The refill since the start, minus the other workers' spend at this worker's pace."""

    @property
    def limit(self) -> float:
        """The limit in units a minute: the configured one, or a lower one in the headers."""
        return min(self.configured_limit, self._capacity)

    @property
    def pace(self) -> float:
        """The factor on the refill rate: 1 before the first header, above 1 for a full bucket."""
        if self._level is None:
            return 1.0
        part = self._level / self._capacity
        if part <= _TARGET_LEVEL:
            return max(part / _TARGET_LEVEL, _MIN_PACE)
        if self._capacity > self.configured_limit:  # configured lower than allowed: go no faster
            return 1.0
        return 1.0 + (part - _TARGET_LEVEL) / (1.0 - _TARGET_LEVEL) * (_MAX_PACE - 1.0)

    def apply_headers(
        self, *, limit: float, remaining: float, accrued_since: float, spent_since: float
    ) -> None:
        """Correct the level by an answer's headers.

        `accrued_since` and `spent_since` are the changes of `accrued` and of this worker's spend
        since the call was granted.
        """
        if limit <= 0 or remaining < 0:  # some servers send -1 or 0 for "unknown"
            return
        self._capacity = limit
        level = self._within_capacity(min(remaining, limit) + accrued_since - spent_since)
        if self._level is not None:
            self._learn_drain(self._level - level)
        self._level = level

    def reset(self) -> None:
        """Forget the headers: after a minute without any, the bucket is full unless drained."""
        self._capacity, self._level = self.configured_limit, None
        self._drain = self._unexplained = self._observed_s = 0.0

    def _learn_drain(self, unexplained: float) -> None:
        self._unexplained += unexplained
        if self._observed_s >= _LEARN_EVERY_S:
            self._drain += self._unexplained / self._observed_s / 2
            self._unexplained = self._observed_s = 0.0

    def advance(self, seconds: float, share: float) -> None:
        """Let time pass for a worker that owns this share (0 to 1)."""
        net = seconds * (self._capacity / 60 * (1.0 - (1.0 - share) * self.pace) - self._drain)
        self._observed_s += seconds
        self.accrued += net
        if self._level is not None:
            self._level = self._within_capacity(self._level + net)

    def spend(self, amount: float) -> None:
        if self._level is not None:
            self._level = self._within_capacity(self._level - amount)

    def _within_capacity(self, level: float) -> float:
        return min(max(level, 0.0), self._capacity)
