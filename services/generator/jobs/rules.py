"""What to do about a failed attempt: try again later, or fail the job with an honest reason."""

from dataclasses import dataclass

from shared.domain.errors import Permanent, Transient

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 300.0
_DOUBT_PAUSE_S = 10.0
"""Before a call is made again whose answer never came: what cut it may be over by then."""
_LONGEST_REASON = 2_000
"""Characters: a provider's own words may be a whole page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLater:
    delay_s: float
    reason: str
    blameless: bool = False
    """Nothing about the job was the reason: it uses up none of its tries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailJob:
    code: str
    reason: str


def decide_retry(error: Exception, *, attempt: int, max_attempts: int, chance: float) -> RetryLater | FailJob:
    """Judge what ended attempt number `attempt` (from 1). `chance` in [0, 1) spreads the pauses (full jitter).

    A provider's own delay is a minimum; the backoff doubles from 2 s to 5 minutes.
    """
    said = str(error)[:_LONGEST_REASON]
    if isinstance(error, Permanent):
        return FailJob(code=error.code, reason=said)
    if not isinstance(error, Transient):
        return FailJob(code="internal", reason=f"{type(error).__name__}: {said}")
    if attempt >= max_attempts and not error.blameless:
        return FailJob(code=error.code, reason=f"gave up after {attempt} attempts: {said}")
    backoff = (
        _FIRST_PAUSE_S
        if error.blameless
        else min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
    )
    least = max(error.delay or 0.0, _DOUBT_PAUSE_S if error.in_doubt else 0.0)
    return RetryLater(delay_s=least + backoff * chance, reason=said, blameless=error.blameless)
