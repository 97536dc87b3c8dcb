"""Worker credit, worker offers and the choice of the leader."""

import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.scheduler import messages
from services.scheduler.dispatch.rules import WorkerCreditTracker, WorkerOffer
from services.scheduler.leadership.assignor import choose_leader
from shared.domain.messages import LimiterReport, Need, WorkerReport


def offer(worker: str, *partitions: int, slots: int = 2, at: float = 0) -> WorkerOffer:
    return WorkerOffer(worker=worker, partitions=partitions, slots=slots, at=at)


def dispatch_all(credit: WorkerCreditTracker, now: float = 0) -> list[int]:
    """Dispatch until no worker has credit. Return the chosen partitions."""
    chosen: list[int] = []
    while (partition := credit.best_partition(now)) is not None:
        credit.record_dispatch(f"job {len(chosen)} {partition}", partition)
        chosen.append(partition)
    return chosen


def test_outstanding_jobs_never_exceed_slots() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("w", 0, 1, slots=3))
    assert sorted(dispatch_all(credit)) == [0, 0, 1]


def test_worker_with_most_credit_goes_first() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("small", 0, slots=1))
    credit.apply_offer(offer("large", 1, slots=3))
    assert dispatch_all(credit) == [1, 1, 0, 1]


def test_settled_job_returns_its_credit() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("w", 0, slots=1))
    credit.record_dispatch("job", 0)
    assert credit.best_partition(0) is None
    credit.record_settlement("job")
    credit.record_settlement("job")
    assert dispatch_all(credit) == [0]


def test_silent_worker_has_no_credit() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("w", 0, at=0))
    assert credit.best_partition(5) == 0
    assert credit.best_partition(5.1) is None


def test_worker_without_slots_or_partitions_has_no_credit() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("draining", 0, slots=0))
    credit.apply_offer(offer("newcomer"))
    assert credit.best_partition(0) is None


def test_older_offer_does_not_replace_newer_one() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("w", 0, slots=0, at=2))
    credit.apply_offer(offer("w", 0, slots=9, at=1))
    assert credit.best_partition(2) is None


def test_unclaimed_job_counts_against_the_new_partition_owner() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("a", 0, 1, slots=2))
    credit.record_dispatch("job", 1)
    credit.apply_offer(offer("a", 0, slots=2, at=1))
    credit.apply_offer(offer("b", 1, slots=2, at=1))
    assert sorted(dispatch_all(credit, 1)) == [0, 0, 1]


def test_jobs_claimed_by_dead_worker_do_not_block_its_successor() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("dead", 0, slots=2))
    for job in ("claimed", "on its way"):
        credit.record_dispatch(job, 0)
    credit.record_claim("claimed", "dead")
    credit.record_claim("claimed", "dead")
    assert dispatch_all(credit) == []
    credit.apply_offer(offer("successor", 0, slots=2, at=9))
    assert dispatch_all(credit, 9) == [0], "the unclaimed job counts against the new owner"
    credit.record_settlement("claimed")
    assert dispatch_all(credit, 9) == []


def test_claimed_job_counts_against_its_worker_after_rebalance() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.record_dispatch("before the failover", 1, claimed_by="a")
    credit.record_dispatch("after the failover", 1)
    credit.record_claim("after the failover", "a")
    credit.record_claim("unknown", "a")
    credit.apply_offer(offer("a", 0, slots=3))
    credit.apply_offer(offer("b", 1, slots=1))
    assert sorted(dispatch_all(credit)) == [0, 1]
    credit.record_settlement("after the failover")
    assert credit.best_partition(0) == 0


def return_job(credit: WorkerCreditTracker, count: int, job: str = "job") -> list[int]:
    """Dispatch a job `count` times. The owner of the partition returns it each time."""
    owners = {0: "a", 1: "b", 2: "c"}
    visited: list[int] = []
    for _ in range(count):
        partition = credit.best_partition(0, job=job)
        assert partition is not None
        visited.append(partition)
        credit.record_dispatch(job, partition)
        credit.record_claim(job, owners[partition])
        credit.record_return(job)
    return visited


def test_returned_job_visits_every_worker_in_turn() -> None:
    """A pinned store's account may have quota on one worker only, and not on the largest."""
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("a", 0, slots=50))
    credit.apply_offer(offer("b", 1, slots=3))
    credit.apply_offer(offer("c", 2, slots=1))
    assert return_job(credit, 7) == [0, 1, 2, 0, 1, 2, 0]
    assert credit.best_partition(0, job="other") == 0
    credit.record_settlement("job")
    assert credit.best_partition(0, job="job") == 0, "an ended job is forgotten"


def test_returned_job_takes_the_only_worker_with_credit() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("a", 0, slots=50))
    credit.apply_offer(offer("b", 1, slots=1))
    credit.record_dispatch("another", 1)
    assert return_job(credit, 3) == [0, 0, 0]
    credit.record_settlement("another")
    assert return_job(credit, 2) == [1, 0], "the other worker comes first once it has credit"


def test_returned_job_ignores_silent_workers() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(offer("a", 0, at=0))
    credit.apply_offer(offer("gone", 1, at=-6))
    assert return_job(credit, 2) == [0, 0]


def test_leadership_stays_with_the_longest_leader() -> None:
    early, late = struct.pack(">d", 100.0), struct.pack(">d", 200.0)
    assert choose_leader({"b": early, "a": late, "0": b""}) == "b"
    assert choose_leader({"b": b"", "a": b""}) == "a"


def test_unknown_partitions_in_a_report_are_ignored() -> None:
    now = datetime.now(UTC)
    report = WorkerReport(
        worker="w", at=now, started_at=now, partitions=(999, 3, -1, 0), slots=5, running=0
    )
    offer_of_report = messages.worker_offer(report, now.timestamp(), partitions=24)
    assert offer_of_report.partitions == (0, 3)
    assert offer_of_report.image_partitions == (0, 3), "a report of version 0.1 names no limits"


def test_open_circuit_breaker_is_the_limiting_cause() -> None:
    now = datetime.now(UTC)
    limiter = LimiterReport(
        provider="openai",
        model="m",
        resource="tokens",
        limit=100,
        share=100,
        level=0,
        used=0,
        circuit_open=True,
    )
    report = WorkerReport(
        worker="w", at=now, started_at=now, partitions=(0,), slots=0, running=0, limiters=(limiter,)
    )
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(messages.worker_offer(report, now.timestamp(), partitions=24))
    assert credit.limiting_cause(now.timestamp()) == "provider unavailable"


def image_offer(worker: str, *image_partitions: int, most: int | None = None) -> WorkerOffer:
    """Build the offer of a worker with two slots and partitions 0 and 1, or 2 and 3."""
    partitions = (0, 1) if worker == "a" else (2, 3)
    return WorkerOffer(
        worker=worker,
        partitions=partitions,
        text_partitions=partitions,
        image_partitions=image_partitions,
        most_image_jobs=most,
        images_stopped_by=None if most is None else "provider unavailable",
        slots=2,
        at=0,
    )


def dispatch_images(credit: WorkerCreditTracker) -> list[int]:
    """Dispatch jobs that need an image until no worker takes one. Return the chosen partitions."""
    chosen: list[int] = []
    while (partition := credit.best_partition(0, needs_images=True)) is not None:
        credit.record_dispatch(f"image {len(chosen)}", partition, needs_images=True)
        chosen.append(partition)
    return chosen


def test_job_that_needs_an_image_goes_where_images_are_carried() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(image_offer("a"))
    credit.apply_offer(image_offer("b", 3))
    assert dispatch_images(credit) == [3, 3]
    assert credit.best_partition(0) in {0, 1}
    assert credit.find_image_outage(0) is None, "the slots for images are taken, and become free"


def test_partition_without_text_quota_gets_no_job() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(
        WorkerOffer(
            worker="w", partitions=(0, 1), text_partitions=(1,), image_partitions=(), slots=2, at=0
        )
    )
    assert dispatch_all(credit) == [1, 1]
    credit.apply_offer(WorkerOffer(worker="w", partitions=(0,), text_partitions=(), slots=9, at=1))
    assert credit.best_partition(1) is None
    assert credit.limiting_cause(1) == "no worker"


def test_open_image_circuit_leaves_the_slots_to_other_jobs() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(image_offer("a", 0, 1, most=0))
    assert dispatch_images(credit) == []
    assert credit.find_image_outage(0) == "provider unavailable"
    assert sorted(dispatch_all(credit)) == [0, 1]


def test_due_probe_allows_one_job_that_needs_an_image() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    credit.apply_offer(image_offer("a", 0, 1, most=1))
    assert dispatch_images(credit) == [0]
    credit.record_claim("image 0", "a")
    assert dispatch_images(credit) == [], "the claimed job is the probe"
    assert credit.find_image_outage(0) == "provider unavailable"
    credit.record_settlement("image 0")
    assert len(dispatch_images(credit)) == 1


def test_images_are_available_while_one_worker_takes_them() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    assert credit.find_image_outage(0) is None, "without a worker nothing is known"
    credit.apply_offer(image_offer("a", 0, 1, most=0))
    credit.apply_offer(image_offer("b", 2))
    assert credit.find_image_outage(0) is None
    assert dispatch_images(credit) == [2, 2]


def limiter_report(
    serves: Need,
    *partitions: int,
    provider: str | None = None,
    circuit_open: bool = False,
    probe_due: bool = False,
    cooling_s: float = 0,
    share: float = 6,
    queued: int = 0,
    level: float = 0,
    pace: float = 1,
) -> LimiterReport:
    cooling_until = datetime.now(UTC) + timedelta(seconds=cooling_s) if cooling_s else None
    return LimiterReport(
        provider=provider or serves.value,
        model="m",
        resource="requests",
        limit=6,
        share=share,
        level=level,
        used=0,
        queued=queued,
        pace=pace,
        cooling_until=cooling_until,
        circuit_open=circuit_open,
        probe_due=probe_due,
        serves=serves,
        partitions=partitions,
    )


def report_offer(
    *limiters: LimiterReport, image_slots: int | None = None, capacity: int | None = None
) -> WorkerOffer:
    now = datetime.now(UTC)
    report = WorkerReport(
        worker="w",
        at=now,
        started_at=now,
        partitions=(0, 1, 2, 3),
        slots=5,
        running=0,
        limiters=limiters,
        total_partitions=24,
        image_slots=image_slots,
        capacity=capacity,
    )
    return messages.worker_offer(report, now.timestamp(), partitions=24)


def test_offer_has_the_partitions_that_carry_each_need() -> None:
    found = report_offer(limiter_report(Need.TEXT, 0, 2, 3), limiter_report(Need.IMAGES, 0, 1, 2))
    assert (found.text_partitions, found.image_partitions) == ((0, 2, 3), (0, 2))
    assert found.most_image_jobs is None


def test_offer_limits_image_jobs_while_their_circuit_is_open() -> None:
    text = limiter_report(Need.TEXT, 0)
    closed = limiter_report(Need.IMAGES, 0)
    waiting = limiter_report(Need.IMAGES, 0, circuit_open=True)
    due = limiter_report(Need.IMAGES, 0, circuit_open=True, probe_due=True)
    found = [report_offer(text, closed, images).most_image_jobs for images in (waiting, due)]
    assert found == [0, 1]
    assert report_offer(text, waiting).limited_by is None, "other jobs are not limited"
    assert report_offer(limiter_report(Need.TEXT, 0, circuit_open=True)).most_image_jobs is None


def test_one_of_several_accounts_must_carry_each_need() -> None:
    offer = report_offer(
        limiter_report(Need.TEXT, 0, provider="a"),
        limiter_report(Need.TEXT, 0, 2, provider="b"),
        limiter_report(Need.IMAGES, 2, 3, provider="c"),
    )
    assert (offer.text_partitions, offer.image_partitions) == ((0, 2), (2,))


@pytest.mark.parametrize(
    ("first", "second", "cause", "image_jobs"),
    [
        ({}, {}, None, None),
        ({"circuit_open": True}, {}, None, None),
        ({"circuit_open": True}, {"circuit_open": True}, "provider unavailable", 0),
        (
            {"circuit_open": True},
            {"circuit_open": True, "probe_due": True},
            "provider unavailable",
            1,
        ),
    ],
)
def test_open_circuit_of_one_account_limits_nothing_while_another_serves(
    first: dict[str, Any], second: dict[str, Any], cause: str | None, image_jobs: int | None
) -> None:
    texts = report_offer(
        limiter_report(Need.TEXT, 0, provider="a", **first),
        limiter_report(Need.TEXT, 0, provider="b", **second),
    )
    assert texts.limited_by == cause
    images = report_offer(
        limiter_report(Need.TEXT, 0, provider="a"),
        limiter_report(Need.IMAGES, 0, provider="b", **first),
        limiter_report(Need.IMAGES, 0, provider="c", **second),
    )
    assert (images.limited_by, images.most_image_jobs) == (None, image_jobs)


TEXTS = limiter_report(Need.TEXT, 0)
COOLING = {"cooling_s": 60.0}
OPEN = {"circuit_open": True}


@pytest.mark.parametrize("image_slots", [None, 0, 3])
def test_offer_takes_as_many_image_jobs_as_the_worker_accepts(image_slots: int | None) -> None:
    found = report_offer(TEXTS, limiter_report(Need.IMAGES, 0), image_slots=image_slots)
    assert (found.most_image_jobs, found.images_stopped_by) == (image_slots, None)


@pytest.mark.parametrize(
    ("capacity", "cause"), [(None, None), (5, None), (50, "RPM")], ids=["0.1", "all", "few"]
)
def test_worker_that_accepts_few_jobs_is_limited_by_its_scarcest_limit(
    capacity: int | None, cause: str | None
) -> None:
    """The worker accepts five jobs, and its permit queue is empty at the moment."""
    assert report_offer(TEXTS, capacity=capacity).limited_by == cause


def test_waiting_image_jobs_leave_slots_to_the_others() -> None:
    credit = WorkerCreditTracker(silence_s=5)
    offer_of_report = report_offer(TEXTS, limiter_report(Need.IMAGES, 0), image_slots=2)
    credit.apply_offer(replace(offer_of_report, at=0))
    assert len(dispatch_images(credit)) == 2
    assert credit.find_image_outage(0) is None, "their turn comes: no outage"
    assert credit.limiting_cause_of_images(0) == "image budget"
    assert credit.limiting_cause(0) is None
    for number in range(3):
        assert credit.best_partition(0) == 0
        credit.record_dispatch(f"text {number}", 0, needs_images=False)
    assert credit.limiting_cause(0) == "back-pressure"


@pytest.mark.parametrize(
    ("first", "second", "cause", "image_jobs"),
    [
        ({"cooling_s": 8.0}, {}, None, None),
        (COOLING, {}, None, None),
        (COOLING, COOLING, "provider cooling down", 0),
        (COOLING, OPEN, "provider cooling down", 0),
        (COOLING, OPEN | {"probe_due": True}, "provider cooling down", 1),
        (COOLING | OPEN | {"probe_due": True}, OPEN, "provider unavailable", 0),
    ],
)
def test_cool_down_of_one_account_limits_nothing_while_another_serves(
    first: dict[str, Any], second: dict[str, Any], cause: str | None, image_jobs: int | None
) -> None:
    texts = report_offer(
        limiter_report(Need.TEXT, 0, provider="a", **first),
        limiter_report(Need.TEXT, 0, provider="b", **second),
    )
    assert texts.limited_by == cause
    images = report_offer(
        limiter_report(Need.TEXT, 0, provider="a"),
        limiter_report(Need.IMAGES, 0, provider="b", **first),
        limiter_report(Need.IMAGES, 0, provider="c", **second),
    )
    assert images.limited_by is None, "other jobs are not limited"
    assert (images.images_stopped_by, images.most_image_jobs) == (cause, image_jobs)


def test_short_cool_down_is_the_cause_of_a_line() -> None:
    """Calls wait for the end of a short cool-down, so jobs that need an image still start."""
    waiting = limiter_report(Need.IMAGES, 0, cooling_s=8, queued=3)
    found = report_offer(TEXTS, waiting)
    assert (found.limited_by, found.images_stopped_by) == ("provider cooling down", None)
    assert report_offer(limiter_report(Need.TEXT, 0, cooling_s=8)).limited_by == (
        "provider cooling down"
    )


def test_line_at_one_account_limits_nothing_while_another_has_none() -> None:
    line = limiter_report(Need.TEXT, 0, provider="a", queued=3)
    scarce = limiter_report(Need.TEXT, 0, provider="b", queued=1)
    assert report_offer(line, limiter_report(Need.TEXT, 0, provider="b")).limited_by is None
    assert report_offer(line, scarce).limited_by == "RPM"
    images = limiter_report(Need.IMAGES, 0, queued=2, level=-1)
    assert report_offer(line, scarce, images).limited_by == "image budget"


def test_limit_of_reads_is_one_of_the_images() -> None:
    line = replace(limiter_report(Need.IMAGES, 0, queued=2, share=3_000), resource="reads")
    images = limiter_report(Need.IMAGES, 0)
    assert report_offer(TEXTS, images, line).limited_by == "image budget"


@pytest.mark.parametrize(
    ("limited_by", "second_rate", "rate"),
    [("RPM", 2.0, 5.0), ("TPM", 0.0, 3.0), (None, 2.0, None), ("RPM", None, None)],
    ids=["both", "one without quota", "slots limit", "a worker of version 0.1"],
)
def test_permitted_rate_is_known_while_permits_limit_all_workers(
    limited_by: str | None, second_rate: float | None, rate: float | None
) -> None:
    credit = WorkerCreditTracker(silence_s=5)
    for name, partition, jobs_per_s in (("w1", 0, 3.0), ("w2", 1, second_rate)):
        full = offer(name, partition, slots=0)
        credit.apply_offer(replace(full, limited_by=limited_by, jobs_per_s=jobs_per_s))
    assert credit.permitted_jobs_per_s(0) == rate
    credit.apply_offer(replace(offer("w3", 2), jobs_per_s=1.0))
    assert credit.permitted_jobs_per_s(0) is None, "a worker accepts jobs at once"
