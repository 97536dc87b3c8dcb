"""The next job goes to a worker with credit, or overtakes the jobs that wait at a worker."""

from dataclasses import replace

import pytest

from services.scheduler.dispatch.picking import pick_job
from services.scheduler.dispatch.rules import WorkerCreditTracker, WorkerOffer
from services.scheduler.fair_queue.queue import FairQueue, WaitingJob

_FULL = WorkerOffer(
    worker="w", partitions=(0,), slots=2, at=0, overtaking_slots=3, lowest_waiting_rank=20
)
"""The worker accepts two jobs, and one more of a rank below 20."""


def create_queue(*, images: bool = False) -> FairQueue:
    """Create a queue with two jobs in flight, and a job of a store that comes then."""
    fair = FairQueue(cap=20, default_cost=10)
    for number in range(3):
        fair.enqueue(WaitingJob.create(job=number, store="flood", created_at=number), 0)
    fair.pick_next(0)
    fair.pick_next(0)
    light = WaitingJob.create(job=9, store="light", created_at=9, needs_images=images)
    fair.enqueue(light, 0)
    return fair


def create_credit(*offers: WorkerOffer) -> WorkerCreditTracker:
    """Create a tracker of two jobs on partition 0."""
    credit = WorkerCreditTracker(silence_s=5)
    for offer in offers:
        credit.apply_offer(offer)
    for job in (0, 1):
        credit.record_dispatch(job, 0, needs_images=False)
    return credit


def test_job_with_a_smaller_rank_overtakes_the_waiting_jobs() -> None:
    found = pick_job(create_queue(), create_credit(_FULL), 0)
    assert found is not None
    partition, pick = found
    assert (partition, pick.job) == (0, 9)
    assert pick.permit_rank < 20


@pytest.mark.parametrize(
    "changes",
    [
        {"lowest_waiting_rank": 0},
        {"overtaking_slots": 2},
        {"at": -6},
        {"text_partitions": ()},
    ],
    ids=["the rank is not smaller", "enough have overtaken", "silent", "no quota"],
)
def test_no_job_overtakes(changes: dict[str, object]) -> None:
    offer = replace(_FULL, **changes)  # type: ignore[arg-type]
    assert pick_job(create_queue(), create_credit(offer), 0) is None


def test_job_that_needs_an_image_does_not_exceed_the_limit_of_images() -> None:
    credit = create_credit(replace(_FULL, most_image_jobs=0))
    assert pick_job(create_queue(images=True), credit, 0) is None
    assert pick_job(create_queue(), credit, 0) is not None


def test_job_overtakes_at_the_worker_with_the_fewest_jobs_above_its_slots() -> None:
    other = WorkerOffer(
        worker="v", partitions=(1,), slots=0, at=0, overtaking_slots=1, lowest_waiting_rank=99
    )
    found = pick_job(create_queue(), create_credit(_FULL, other), 0)
    assert found is not None
    credit = create_credit(replace(_FULL, slots=1), other)
    assert pick_job(create_queue(), credit, 0) != found


def test_text_job_overtakes_behind_an_image_job_that_may_not() -> None:
    queue = create_queue(images=True)
    queue.enqueue(WaitingJob.create(job=10, store="texts", created_at=10, needs_images=False), 0)
    found = pick_job(queue, create_credit(replace(_FULL, most_image_jobs=0)), 0)
    assert found is not None
    assert found[1].job == 10


def test_returned_job_waits_for_credit_instead_of_overtaking() -> None:
    credit = create_credit(_FULL)
    credit.record_dispatch(9, 0, claimed_by="w", needs_images=False)
    credit.record_return(9)
    assert pick_job(create_queue(), credit, 0) is None
