"""The provider's own bucket, as its headers show it: how fast may we go, when others may share the account?

The bucket holds a minute's limit and refills continuously; every answer says what was left in it when the call was let
in. Between answers the level is reckoned on: the refill, what we spend ourselves, and what the other workers spend if
they go at our pace. Everyone sees the same bucket, so everyone slows down and speeds up alike, and nobody has to
coordinate.
"""

_TARGET = 0.75
"""The part of the bucket at which we go at exactly our share: there is room below for bursts and surprises."""
_FASTEST = 2.5
"""Times our share, with a full bucket: reservations are upper bounds, and headers show what of them was not taken."""
_SLOWEST = 0.02
_LEARN_EVERY_S = 5.0


class ProviderBucket:
    """One resource of the account. `limit` is what we were told that it allows a minute."""

    def __init__(self, limit: float) -> None:
        self.configured_limit = limit
        """What it was set to."""
        self._capacity = limit
        self._level: float | None = None
        """None: no header seen yet."""
        self._drain = 0.0
        """What leaves the bucket beyond what we know of, in units a second: another application, or (less than 0) what
        reservations have promised and calls have not taken."""
        self._missed = self._watched_s = 0.0
        self.accrued = 0.0
        """What time has brought since the beginning: the refill, less what other workers took if they went our pace."""

    @property
    def limit(self) -> float:
        """Units a minute: what we were told, or less when the headers say that it is less."""
        return min(self.configured_limit, self._capacity)

    @property
    def pace(self) -> float:
        """Times our share of the limit: 1 while nothing is known, more when some is left, less when it is short."""
        if self._level is None:
            return 1.0
        part = self._level / self._capacity
        if part <= _TARGET:
            return max(part / _TARGET, _SLOWEST)
        if (
            self._capacity > self.configured_limit
        ):  # whoever told us a lower limit does not want us to go faster
            return 1.0
        return 1.0 + (part - _TARGET) / (1.0 - _TARGET) * (_FASTEST - 1.0)

    def apply_headers(
        self, *, limit: float, remaining: float, passed_since: float, spent_since: float
    ) -> None:
        """An answer's headers: what was left at a time since when so much has `accrued`, and we have spent so much."""
        if limit <= 0 or remaining < 0:  # some servers send -1 or 0 for: not known
            return
        self._capacity = limit
        level = self._within(min(remaining, limit) + passed_since - spent_since)
        if self._level is not None:
            self._learn(self._level - level)
        self._level = level

    def reset(self) -> None:
        """Nothing was heard for so long that the bucket is full again, unless others drain it: it is found out anew."""
        self._capacity, self._level = self.configured_limit, None
        self._drain = self._missed = self._watched_s = 0.0

    def _learn(self, unexplained: float) -> None:
        self._missed += unexplained
        if self._watched_s >= _LEARN_EVERY_S:
            self._drain += self._missed / self._watched_s / 2
            self._missed = self._watched_s = 0.0

    def advance(self, seconds: float, share: float) -> None:
        """Time passes for a worker that owns this share."""
        net = seconds * (self._capacity / 60 * (1.0 - (1.0 - share) * self.pace) - self._drain)
        self._watched_s += seconds
        self.accrued += net
        if self._level is not None:
            self._level = self._within(self._level + net)

    def spend(self, amount: float) -> None:
        if self._level is not None:
            self._level = self._within(self._level - amount)

    def _within(self, level: float) -> float:
        return min(max(level, 0.0), self._capacity)
