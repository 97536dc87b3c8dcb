"""Decides about a failed attempt: retry later, or fail the job with a reason."""

from dataclasses import dataclass
from math import inf

from shared.domain.errors import Permanent, Transient

_FIRST_PAUSE_S = 2.0
_MAX_PAUSE_S = 300.0
_MAX_BLAMELESS_PAUSE_S = 60.0
"""The provider is asked again at least so often, because its trouble may end at any time."""
_IN_DOUBT_PAUSE_S = 10.0
"""The minimum pause before an in-doubt call is repeated, so that its cause can pass."""
_MAX_REASON_CHARACTERS = 2_000
"""A provider's error message may be a whole page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLater:
    delay_s: float
    reason: str
    blameless: bool = False
    """The job did not cause the failure: the attempt does not count towards its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailJob:
    code: str
    reason: str


def decide_retry(
    error: Exception,
    *,
    attempt: int,
    counted_attempts: int,
    max_attempts: int,
    chance: float,
    running_s: float = inf,
) -> RetryLater | FailJob:
    """Decide about the error that ended an attempt.

    `counted_attempts` includes this attempt and excludes the blameless ones before it. The backoff
    doubles from 2 s to 5 minutes (a minute if the job is not to blame). `chance` in [0, 1) spreads
    it (full jitter). A delay requested by the provider is a minimum. `running_s`: the time since
    the first attempt, or since the first one after a user's retry. A blameless attempt waits no
    longer than that, because `attempt` includes those before the retry. A bug counts as an attempt.
    """
    if isinstance(error, Permanent):
        return FailJob(code=error.code, reason=str(error)[:_MAX_REASON_CHARACTERS])
    if not isinstance(error, Transient):
        error = Transient(f"{type(error).__name__}: {error}", code="internal")
    reason = str(error)[:_MAX_REASON_CHARACTERS]
    if counted_attempts >= max_attempts and not error.blameless:
        return FailJob(
            code=error.code, reason=f"gave up after {counted_attempts} attempts: {reason}"
        )
    minimum = max(error.delay or 0.0, _IN_DOUBT_PAUSE_S if error.in_doubt else 0.0)
    backoff = _backoff(error, attempt, counted_attempts, running_s)
    return RetryLater(delay_s=minimum + backoff * chance, reason=reason, blameless=error.blameless)


def _backoff(error: Transient, attempt: int, counted_attempts: int, running_s: float) -> float:
    if not error.blameless:
        return _doubled(counted_attempts, _MAX_PAUSE_S)
    if error.delay is not None:  # how long to wait is known: only spread the jobs
        return _FIRST_PAUSE_S
    return min(_doubled(attempt, _MAX_BLAMELESS_PAUSE_S), max(running_s, _FIRST_PAUSE_S))


def _doubled(attempts: int, max_s: float) -> float:
    """Double the first pause with each attempt after the first, up to `max_s`."""
    doublings: int = min(attempts - 1, 10)
    return min(_FIRST_PAUSE_S * (1 << doublings), max_s)
