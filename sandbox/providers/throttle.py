"""A stand-in's rate limits, and the form in which it reports that one is reached."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sandbox.providers.bucket import DayBucket, MinuteBucket

ThrottleStyle = Literal[
    "full", "plain", "retry-after", "reset", "body", "day", "insufficient_quota", "code-429"
]
"""Forms of a 429 answer.

full: every header. plain: no header that tells a time. retry-after: only that header. reset: only
`x-ratelimit-reset-*`. body: `retry_after` in the JSON body (Replicate). day: a daily limit, with
hours to wait. insufficient_quota: that error type, with code null. code-429: the text "429" as the
code.
"""
_DEFAULT_DAY_WAIT_S = 6 * 3600.0


class LimitChange(BaseModel):
    """The body of POST /standin/limits. Fields that are absent stay as they are."""

    model_config = ConfigDict(extra="forbid")

    requests: float | None = Field(None, gt=0)
    """Per minute."""
    tokens: float | None = Field(None, gt=0)
    """Per minute."""
    burst: float | None = Field(None, ge=1)
    """Requests that may come at once; null: one minute's limit."""
    requests_per_day: float | None = Field(None, gt=0)
    style: ThrottleStyle | None = None
    wait_s: float | None = Field(None, gt=0)
    """The wait that the 429 names; null: what the bucket needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """The limit that a call met. `used` and `need` are units, `wait_s` seconds until it fits."""

    resource: str
    period: Literal["min", "day"]
    limit: float
    used: float
    need: float
    wait_s: float


class Throttle:
    """Token buckets by resource, an optional limit per day, and the style of the answers."""

    def __init__(
        self,
        limits: Mapping[str, float],
        now: float,
        *,
        style: ThrottleStyle,
        burst: float | None = None,
    ) -> None:
        self.style: ThrottleStyle = style
        self._burst = burst
        self._wait_s: float | None = None
        self._day: DayBucket | None = None
        self._closed_until = 0.0
        self.buckets = {
            name: MinuteBucket(limit, now, burst if name == "requests" else None)
            for name, limit in limits.items()
        }

    def admit(self, needs: Mapping[str, float], now: float) -> Denial | None:
        """Take `needs` from the buckets, or return the limit that does not allow them."""
        denial = self._find_denial(needs, now)
        if denial is None:
            for name, need in needs.items():
                self.buckets[name].take(need, now)
            if self._day is not None:
                self._day.take(needs.get("requests", 0), now)
        elif denial.period == "day":
            self._closed_until = max(self._closed_until, now + denial.wait_s)
        return denial

    def charge_request(self, now: float) -> None:
        """Count a refused call: it counts against the limit too."""
        bucket = self.buckets["requests"]
        bucket.take(min(1.0, bucket.remaining(now)), now)

    def change(self, change: LimitChange, now: float) -> None:
        """Apply a change of limits. The daily closing ends."""
        given = change.model_fields_set
        if "burst" in given:
            self._burst = change.burst
        for name, bucket in self.buckets.items():
            limit = getattr(change, name) or bucket.limit
            bucket.resize(limit, now, self._burst if name == "requests" else None)
        if "requests_per_day" in given:
            per_day = change.requests_per_day
            self._day = None if per_day is None else DayBucket(per_day, now)
        if "wait_s" in given:
            self._wait_s = change.wait_s
        self.style = change.style or self.style
        self._closed_until = 0.0

    @property
    def burst(self) -> float | None:
        return self._burst

    def as_json(self) -> dict[str, Any]:
        limits: dict[str, Any] = {name: bucket.limit for name, bucket in self.buckets.items()}
        return limits | {
            "burst": self._burst,
            "requests_per_day": None if self._day is None else self._day.limit,
            "style": self.style,
            "wait_s": self._wait_s,
        }

    def _find_denial(self, needs: Mapping[str, float], now: float) -> Denial | None:
        if now < self._closed_until:
            return self._daily_denial(now, self._closed_until - now)
        if self._day is not None and (wait_s := self._day.wait_s(1, now)) > 0:
            return self._daily_denial(now, self._wait_s or wait_s)
        for name, need in needs.items():
            bucket = self.buckets[name]
            wait_s = bucket.wait_s(need, now)
            if wait_s <= 0:
                continue
            if self.style == "day":
                return self._daily_denial(now, self._wait_s or _DEFAULT_DAY_WAIT_S)
            return Denial(
                resource=name,
                period="min",
                limit=bucket.limit,
                used=bucket.limit - bucket.remaining(now),
                need=need,
                wait_s=self._wait_s or wait_s,
            )
        return None

    def _daily_denial(self, now: float, wait_s: float) -> Denial:
        bucket = self._day or self.buckets["requests"]
        used = bucket.limit - bucket.remaining(now)
        return Denial(
            resource="requests", period="day", limit=bucket.limit, used=used, need=1, wait_s=wait_s
        )
