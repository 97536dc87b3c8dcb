"""The pace that is learned from 429 answers, beside providers that serve less than configured."""

from collections.abc import Callable
from math import inf
from uuid import uuid4

import pytest

from services.generator.quota.learned_pace import LearnedPace


class MinuteBucket:
    """A provider's bucket of `limit` calls, of `size` at once, refilled continuously."""

    def __init__(self, limit: float, size: float) -> None:
        self._per_s, self._size = limit / 60, size
        self._level, self._at = size, 0.0

    def serve(self, now: float) -> bool:
        self._level = min(self._size, self._level + (now - self._at) * self._per_s)
        self._at = now
        served = self._level >= 1
        self._level -= served
        return served

    def delay(self) -> float:
        return (1 - self._level) / self._per_s


def refuse_job(pace: LearnedPace, now: float, *, requested_delay: float | None = None) -> float:
    return pace.record_throttled(uuid4(), now, now, requested_delay=requested_delay)


def refuse_two_jobs(pace: LearnedPace, now: float, *, requested_delay: float | None = None) -> None:
    for _ in range(2):
        refuse_job(pace, now, requested_delay=requested_delay)


def play(
    bucket: MinuteBucket, told: Callable[[], float | None], *, calls: int
) -> tuple[int, float]:
    """Make `calls` served calls at 10 a second at most. Returns all calls made, and the seconds.

    An answer takes half a second, so several calls are in progress at a time.
    """
    pace, now, cooling, made, served = LearnedPace(), 0.0, 0.0, 0, 0
    answers: list[tuple[float, float, bool, float | None]] = []
    while served < calls:
        if now >= cooling and pace.seconds_until_call(now) <= 0:
            made += 1
            pace.record_call(now)
            ok = bucket.serve(now)
            answers.append((now + 0.5, now, ok, None if ok else told()))
        while answers and answers[0][0] <= now:
            _, requested_at, ok, delay = answers.pop(0)
            if ok:
                served += 1
                pace.record_served(now, ceiling_per_s=10)
            else:
                pause = pace.record_throttled(uuid4(), requested_at, now, requested_delay=delay)
                cooling = max(cooling, now + pause)
        now += 0.1
    return made, now


@pytest.mark.parametrize("tells_delay", [True, False])
@pytest.mark.parametrize(("limit", "size"), [(15, 15), (15, 1), (6, 1), (120, 120)])
def test_few_calls_are_refused_by_a_provider_that_serves_less(
    limit: float, size: float, tells_delay: bool
) -> None:
    bucket = MinuteBucket(limit, size)
    made, seconds = play(bucket, bucket.delay if tells_delay else lambda: None, calls=80)
    assert made / 80 <= 1.3
    least = (80 - size) * 60 / limit
    assert seconds <= 1.6 * least + 60


def test_pace_returns_to_the_configured_one() -> None:
    pace = LearnedPace()
    refuse_two_jobs(pace, 0, requested_delay=4)
    assert pace.seconds_until_call(0) == 0
    now, calls = 4.0, 0
    while pace.per_s is not None:
        now += pace.seconds_until_call(now)
        pace.record_call(now)
        pace.record_served(now, ceiling_per_s=10)
        calls += 1
    assert calls < 150
    assert now < 180


def test_slow_traffic_does_not_raise_the_pace() -> None:
    pace = LearnedPace()
    refuse_two_jobs(pace, 0, requested_delay=1)
    for minute in range(1, 100):
        pace.record_call(minute * 60)
        pace.record_served(minute * 60, ceiling_per_s=10)
    assert pace.per_s == 1


def test_pause_doubles_while_nothing_is_served() -> None:
    pace, now, pauses = LearnedPace(), 0.0, []
    assert refuse_job(pace, 0) == 0
    for _ in range(8):
        pauses.append(refuse_job(pace, now))
        now += pauses[-1]
    assert pauses == [60, 120, 240, 480, 600, 600, 600, 600]


def test_late_answer_of_an_earlier_call_does_not_lower_the_pace_again() -> None:
    pace = LearnedPace()
    for at in range(30):
        pace.record_served(at, ceiling_per_s=10)
    refuse_two_jobs(pace, 30)
    before = pace.per_s
    pace.record_throttled(uuid4(), 29.9, 30.1, requested_delay=None)
    assert pace.per_s == before


def test_pace_follows_the_share() -> None:
    pace = LearnedPace()
    refuse_two_jobs(pace, 0, requested_delay=2)
    pace.record_call(0)
    waits = []
    for share in (1.0, 0.5, 0.0, 0.25):
        pace.share = share
        waits.append(pace.seconds_until_call(0))
    assert waits == [2, 4, inf, 8]


def test_late_429_after_the_pace_is_the_configured_one_again() -> None:
    pace = LearnedPace()
    refuse_two_jobs(pace, 10, requested_delay=0.5)
    for now in (11, 11.5):
        pace.record_call(now)
    pace.record_served(12, ceiling_per_s=1)
    assert pace.per_s is None
    assert pace.record_throttled(uuid4(), 9, 13, requested_delay=None) == 5


def test_one_job_never_lowers_the_pace() -> None:
    pace, job = LearnedPace(), uuid4()
    for now in range(20):
        pause = pace.record_throttled(job, now, now, requested_delay=600)
        assert (pause, pace.per_s) == (0, None)
    assert refuse_job(pace, 90) == 0, "of another job, but more than a minute later"
