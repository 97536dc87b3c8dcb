"""Models the provider's own token bucket from its headers, to set the pace of a shared account.

The bucket holds the limit of one minute and refills continuously. Each answer reports the level at
the time when the call was admitted. Between answers the level is extrapolated: the refill, minus
this worker's spend, minus the spend of the other workers at the same pace. All workers see the same
bucket, so all slow down and speed up alike without coordination.

The account floor stays for others. The level above it, the surplus, is spent within seconds: a full
bucket gives a pace of several times the refill rate, and an account that is used alone settles
where the surplus lasts as long as its refill takes.

Headers may be wrong. So a pace above 1 also needs a surplus in this worker's own account of its
usage, which no header raises.
"""

from typing import NamedTuple

ACCOUNT_FLOOR = 0.25
"""The default floor. Headers are late by a call's latency, and others begin without a warning."""
_SPEND_S = 10.0
"""Seconds within which the surplus is spent."""
_MAX_BAND = 0.4
"""The largest band, as a part of the limit above the floor: the largest pace is 2.5 at least."""
_MIN_PACE = 0.02
_LEARN_EVERY_S = 5.0
_LEARN_CALLS = 3
"""A measurement of the drain takes at least the refill of so many calls."""
_DRAIN_S = 30.0
"""Seconds for which a measured drain is assumed. Later the level rises, until a call asks again."""


class BucketMark(NamedTuple):
    """The time of a grant, in the terms of one bucket."""

    elapsed_s: float
    balance: float


class ProviderBucket:
    """The bucket of one resource. `limit` is the configured limit in units a minute.

    `floor` is the part of the limit that is left for others (0 to 1).
    """

    def __init__(self, limit: float, *, floor: float = ACCOUNT_FLOOR) -> None:
        self.configured_limit = limit
        self.limit = limit
        """The limit in units a minute: the configured one, or a lower one in the headers."""
        self._floor = floor
        self._capacity = limit
        self._known_pace: float | None = None
        """The pace, until something changes that it depends on."""
        self._level: float | None = None
        """`None` before the first header."""
        self._own_level = limit
        """The level by this worker's usage, if the others used as much. No header changes it."""
        self._share = 0.0
        self._largest = 0.0
        """The largest amount of one call so far."""
        self._elapsed_s = 0.0
        self._balance = 0.0
        """The refill since the start, minus all workers' spend at this worker's pace."""
        self._drain = 0.0
        """The unexplained outflow in units a second.

        Another application drains the bucket; a negative value means that calls use less than their
        reservations."""
        self._newest: BucketMark | None = None
        """The latest call with headers."""
        self._measured: BucketMark | None = None
        """The call since which the drain is measured, and the unexplained level then."""

    @property
    def pace(self) -> float:
        """The factor on the refill rate: 1 before the first header, above 1 for a full bucket."""
        pace = self._known_pace
        if pace is None:
            pace = self._known_pace = self._compute_pace()
        return pace

    def _compute_pace(self) -> float:
        """Return the pace that spends the surplus in time, above 1 only if it is also our own."""
        if self._level is None:
            return 1.0
        left, band = self._floor * self.limit, self._band
        pace = max((self._level - left) / band, _MIN_PACE)
        if pace <= 1.0:
            return pace
        if self._capacity > self.configured_limit:  # configured lower than allowed: go no faster
            return 1.0
        return min(pace, max((self._own_level - left) / band, 1.0))

    @property
    def _band(self) -> float:
        """The surplus at which the pace is 1. It has room for one call of each worker."""
        calls = self._largest / self._share if self._share > 0 else 0.0
        band = max(self.limit / 60 * _SPEND_S, calls)
        return min(band, (1.0 - self._floor) * self.limit * _MAX_BAND)

    def mark(self) -> BucketMark:
        """Return the mark of a call that is granted and charged now."""
        return BucketMark(self._elapsed_s, self._balance)

    def apply_headers(self, granted: BucketMark, *, limit: float, remaining: float) -> None:
        """Correct the level by the headers of a call's answer."""
        if limit <= 0 or remaining < 0:  # some servers send -1 or 0 for "unknown"
            return
        if self._newest is not None and granted.elapsed_s < self._newest.elapsed_s:
            return  # a slow call's answer knows less than a later call's
        self._own_level *= limit / self._capacity
        self._set_capacity(limit)
        self._newest = granted
        remaining = min(remaining, limit)
        self._learn_drain(granted, remaining)
        drained = self._drain * min(self._elapsed_s - granted.elapsed_s, _DRAIN_S)
        self._level = self._within_capacity(remaining + self._balance - granted.balance - drained)

    def reset(self) -> None:
        """Forget the headers: after a minute without any, the bucket is full unless drained."""
        self._own_level *= self.configured_limit / self._capacity
        self._set_capacity(self.configured_limit)
        self._level = None
        self._drain, self._newest, self._measured = 0.0, None, None

    def _learn_drain(self, granted: BucketMark, remaining: float) -> None:
        """Measure the outflow between two calls by what their balances do not explain."""
        now = BucketMark(granted.elapsed_s, remaining - granted.balance)
        if self._measured is None or remaining + self._largest >= self._capacity:
            self._measured = now  # a full bucket does not refill
            return
        seconds = now.elapsed_s - self._measured.elapsed_s
        if seconds >= max(_LEARN_EVERY_S, _LEARN_CALLS * self._largest / self._refill_per_s):
            drain = (self._measured.balance - now.balance) / seconds
            self._drain, self._measured = (self._drain + drain) / 2, now

    def advance(self, seconds: float, share: float) -> None:
        """Let time pass for a worker that owns this share (0 to 1)."""
        if share != self._share:
            self._share, self._known_pace = share, None
        self._elapsed_s += seconds
        refill = seconds * self._refill_per_s
        net = refill * (1.0 - (1.0 - share) * self.pace)
        self._balance += net
        self._charge_own(-refill * share)
        if self._level is not None and self._newest is not None:
            if self._elapsed_s - self._newest.elapsed_s < _DRAIN_S:
                net -= seconds * self._drain
            self._level = self._within_capacity(self._level + net)

    def spend(self, amount: float) -> None:
        """Charge a reservation."""
        self._largest = max(self._largest, amount)
        self._balance -= amount
        self._charge_own(amount)
        if self._level is not None:
            self._level = self._within_capacity(self._level - amount)

    def correct_usage(self, excess: float) -> None:
        """Correct this worker's own account by a call's usage beyond its reservation, or below."""
        self._charge_own(excess)

    def distrust_surplus(self) -> None:
        """Empty this worker's own account after a 429: the pace stays at 1 until it has saved."""
        self._own_level, self._known_pace = 0.0, None

    def _charge_own(self, amount: float) -> None:
        self._known_pace = None
        if self._share > 0:
            room = self._capacity + self._largest / self._share
            self._own_level = min(max(self._own_level - amount / self._share, 0.0), room)

    def _set_capacity(self, capacity: float) -> None:
        self._capacity, self._known_pace = capacity, None
        self.limit = min(self.configured_limit, capacity)

    @property
    def _refill_per_s(self) -> float:
        return self._capacity / 60

    def _within_capacity(self, level: float) -> float:
        return min(max(level, 0.0), self._capacity)
