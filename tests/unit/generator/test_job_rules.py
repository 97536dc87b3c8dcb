"""The commit watermark and the decision about a failed attempt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.jobs.commit_watermark import CommitWatermark
from services.generator.jobs.rules import FailJob, RetryLater, decide_retry
from shared.domain.errors import Permanent, Transient


def test_watermark_stays_at_first_unfinished_record() -> None:
    watermark = CommitWatermark(10)
    for offset in (10, 11, 12):
        watermark.start_record(offset)
    watermark.finish_record(11)
    assert watermark.commit_offset == 10
    watermark.finish_record(10)
    assert watermark.commit_offset == 12
    watermark.finish_record(12)
    assert watermark.commit_offset == 13


@given(st.permutations(range(8)), st.integers(0, 8))
def test_unfinished_record_is_never_committed(order: list[int], finished: int) -> None:
    watermark = CommitWatermark(0)
    for offset in range(8):
        watermark.start_record(offset)
    for offset in order[:finished]:
        watermark.finish_record(offset)
    unfinished = set(range(8)) - set(order[:finished])
    assert watermark.commit_offset == min(unfinished, default=8)


def test_retry_waits_for_provider_delay_plus_jitter() -> None:
    decision = decide_retry(
        Transient("429", delay=9), attempt=4, counted_attempts=3, max_attempts=8, chance=0.5
    )
    assert decision == RetryLater(delay_s=9 + 2 * 4 * 0.5, reason="429")


def test_in_doubt_call_is_not_repeated_at_once() -> None:
    error = Transient("cut", in_doubt=True)
    decision = decide_retry(error, attempt=1, counted_attempts=1, max_attempts=8, chance=0.0)
    assert decision == RetryLater(delay_s=10, reason="cut")


def test_backoff_is_capped_at_five_minutes() -> None:
    decision = decide_retry(
        Transient("x"), attempt=31, counted_attempts=30, max_attempts=99, chance=1.0
    )
    assert isinstance(decision, RetryLater)
    assert decision.delay_s == 300


@pytest.mark.parametrize(
    ("attempt", "delay", "seconds"), [(1, None, 2), (3, None, 8), (5_000, None, 60), (5, 7, 7 + 2)]
)
def test_blameless_attempt_waits_a_minute_at_most(
    attempt: int, delay: float | None, seconds: float
) -> None:
    decision = decide_retry(
        Transient("502", blameless=True, delay=delay),
        attempt=attempt,
        counted_attempts=99,
        max_attempts=8,
        chance=1.0,
    )
    assert decision == RetryLater(delay_s=seconds, reason="502", blameless=True)


def test_bug_costs_an_attempt() -> None:
    decision = decide_retry(
        KeyError("x"), attempt=5, counted_attempts=2, max_attempts=8, chance=1.0
    )
    assert decision == RetryLater(delay_s=4, reason="KeyError: 'x'")


@pytest.mark.parametrize(("running_s", "seconds"), [(-1, 2), (1, 2), (15, 15), (999, 60)])
def test_blameless_attempt_waits_no_longer_than_its_job_runs(
    running_s: float, seconds: float
) -> None:
    """The attempts before a user's retry do not lengthen the first pause after it."""
    decision = decide_retry(
        Transient("502", blameless=True),
        attempt=40,
        counted_attempts=1,
        max_attempts=8,
        chance=1.0,
        running_s=running_s,
    )
    assert decision == RetryLater(delay_s=seconds, reason="502", blameless=True)


@pytest.mark.parametrize(
    ("error", "counted_attempts", "code", "reason"),
    [
        (Permanent("no", code="refused"), 1, "refused", "no"),
        (Transient("429", code="openai-429"), 8, "openai-429", "gave up after 8 attempts: 429"),
        (KeyError("x"), 8, "internal", "gave up after 8 attempts: KeyError: 'x'"),
    ],
    ids=["permanent", "last-attempt", "bug"],
)
def test_failed_job_names_code_and_reason(
    error: Exception, counted_attempts: int, code: str, reason: str
) -> None:
    decision = decide_retry(
        error, attempt=1, counted_attempts=counted_attempts, max_attempts=8, chance=0.5
    )
    assert decision == FailJob(code=code, reason=reason)
