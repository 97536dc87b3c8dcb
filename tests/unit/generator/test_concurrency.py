"""A worker holds as many jobs as keep its permits in use, and its permit queue has an order."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.quota.concurrency import (
    PermitSupply,
    add_lead,
    count_accepted_jobs,
    count_overtaking_slots,
)
from services.generator.quota.held_jobs import HeldJobs
from services.generator.quota.rules import PermitRank, RateLimiter
from shared.domain.messages import Need


@pytest.mark.parametrize(
    ("held", "unqueued", "supplies", "accepted"),
    [
        (0, 0, [(10, 0)], 10),
        (7, 0, [(10, 2)], 15),
        (7, 2, [(10, 0)], 15),
        (30, 0, [(10, 10)], 30),
        (30, 0, [(10, 14)], 30),
        (5, 0, [(0, 0)], 6),
        (5, 0, [(0, 1)], 5),
        (5, 0, [], 6),
        (1, 0, [(1.2, 1)], 2),
        (9, 0, [(10, 0), (3, 4)], 19),
    ],
    ids=[
        "idle",
        "two wait in the queue",
        "two are about to enter it",
        "full",
        "over-full after a lower limit",
        "no permit soon",
        "no permit soon, and one waits",
        "no account serves",
        "part of a job",
        "a long queue at one account takes no place from another",
    ],
)
def test_accepted_jobs(
    held: int, unqueued: int, supplies: list[tuple[float, int]], accepted: int
) -> None:
    found = count_accepted_jobs(
        held=held, unqueued=unqueued, supplies=[PermitSupply(*supply) for supply in supplies]
    )
    assert found == accepted


def test_held_jobs_by_the_permits_that_they_have_had() -> None:
    changes: list[str] = []
    times = iter([10.0, 17.0])
    held = HeldJobs(lambda: changes.append("changed"), clock=lambda: next(times))
    first, second = UUID(int=1), UUID(int=2)
    held.add(first, needs_image=True, is_first_attempt=True)
    held.add(second, needs_image=False, is_first_attempt=True)
    assert (held.total, held.without_permit, held.image_jobs, held.before_image) == (2, 2, 1, 1)
    held.record_permit(first, Need.TEXT, {"requests": 1, "tokens": 100})
    assert (held.without_permit, held.before_image) == (1, 1)
    held.record_image_wait(first)
    assert held.image_lead_s == 7, "the measured time replaces the usual one"
    held.record_permit(first, Need.IMAGES, {"requests": 1})
    held.record_image_permit(first)
    held.record_permit(first, Need.TEXT, {"requests": 1, "tokens": 300})
    assert (held.without_permit, held.image_jobs, held.before_image) == (1, 1, 0)
    assert held.mean_needs(Need.TEXT) is None
    held.remove(first, done=True)
    held.remove(second, done=False)
    assert (held.total, held.without_permit, held.image_jobs) == (0, 0, 0)
    assert held.mean_needs(Need.TEXT) == {"requests": 2, "tokens": 400}
    assert held.mean_needs(Need.IMAGES) == {"requests": 1}
    assert changes


def test_resumed_job_waits_for_no_first_permit_and_measures_nothing() -> None:
    held = HeldJobs(lambda: None, clock=lambda: 0.0)
    before = held.image_lead_s
    held.add(UUID(int=1), needs_image=True, is_first_attempt=False)
    assert (held.total, held.without_permit, held.before_image) == (1, 0, 1)
    held.record_image_wait(UUID(int=1))
    held.record_permit(UUID(int=1), Need.IMAGES, {"requests": 1})
    held.remove(UUID(int=1), done=True)
    assert held.image_lead_s == before
    assert held.mean_needs(Need.IMAGES) is None


def test_mean_needs_follow_the_recent_jobs() -> None:
    held = HeldJobs(lambda: None, clock=lambda: 0.0)
    for number, tokens in enumerate([1_000] * 5 + [4_000] * 100):
        held.add(UUID(int=number), needs_image=False, is_first_attempt=True)
        held.record_permit(UUID(int=number), Need.TEXT, {"tokens": tokens})
        held.remove(UUID(int=number), done=True)
    needs = held.mean_needs(Need.TEXT)
    assert needs is not None
    assert needs["tokens"] == pytest.approx(4_000, rel=0.01)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12), st.integers(1, 5))
def test_permits_go_to_begun_jobs_then_by_rank_then_by_arrival(
    ranks: list[tuple[bool, int]], at_once: int
) -> None:
    limiter = RateLimiter({"requests": 60}, burst_s=at_once, now=0)
    limiter.assign_share(1, {}, 0)
    arrivals = [
        limiter.reserve({"requests": 1}, 0, PermitRank(starts, float(time)))
        for starts, time in ranks
    ]
    granted = [
        reservation
        for second in range(len(ranks) + 1)
        for reservation in limiter.grant_ready(second)
    ]
    assert granted == sorted(arrivals, key=lambda reservation: reservation.rank)


def test_estimated_wait_counts_only_calls_that_go_before() -> None:
    limiter = RateLimiter({"requests": 60}, burst_s=1, now=0)
    limiter.assign_share(1, {}, 0)
    for _ in range(5):
        limiter.reserve({"requests": 1}, 0, PermitRank(starts_job=True, value=7))
    begun, earlier, later = (
        limiter.estimate_wait({"requests": 1}, 0, rank)
        for rank in (PermitRank(), PermitRank(True, 3), PermitRank(True, 8))
    )
    assert (begun, earlier, later) == (1, 1, 6)


@pytest.mark.parametrize(("level", "jobs"), [(1, 1.5), (0, 1), (-1, 0.5), (-9, 0)])
def test_affordable_jobs_count_the_level_and_the_refill(level: float, jobs: float) -> None:
    """One unit a second refills, and a job needs two."""
    limiter = RateLimiter({"requests": 60}, burst_s=1, now=0)
    assert limiter.count_affordable({"requests": 2}, 2, 0) == 0, "no share yet"
    limiter.assign_share(1, {"requests": level}, 0)
    assert limiter.count_affordable({"requests": 2}, 2, 0) == jobs


@pytest.mark.parametrize(
    ("held", "waiting", "jobs", "slots"),
    [(5, 2, 2.0, 7), (7, 4, 2.0, 7), (6, 3, 2.0, 7), (9, 6, 2.0, 9), (1, 1, 0.1, 2)],
    ids=["two may be overtaken", "overtaken already", "overtaken by one", "too many", "few"],
)
def test_overtaking_slots(held: int, waiting: int, jobs: float, slots: int) -> None:
    found = count_overtaking_slots(
        held=held, unqueued=0, supplies=[PermitSupply(jobs=jobs, waiting=waiting)]
    )
    assert found == slots


@pytest.mark.parametrize(
    ("jobs_per_s", "lead_s", "jobs"), [(1.0, 25.0, 37.0), (0.25, 4.0, 3.5), (1.0, 0.0, 2.0)]
)
def test_jobs_with_a_lead_time_vary_in_number(
    jobs_per_s: float, lead_s: float, jobs: float
) -> None:
    """The permits cover the lead time and two seconds."""
    supply = PermitSupply(jobs=jobs_per_s * (lead_s + 2), waiting=3, jobs_per_s=jobs_per_s)
    assert add_lead(supply, lead_s) == supply._replace(jobs=jobs, waiting=0)
