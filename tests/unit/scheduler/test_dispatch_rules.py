"""Worker credit, worker offers and the choice of the leader."""

import struct
from datetime import UTC, datetime

from services.scheduler import messages
from services.scheduler.dispatch.rules import WorkerCreditTracker, WorkerOffer
from services.scheduler.leadership.assignor import choose_leader
from shared.domain.messages import LimiterReport, WorkerReport


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


def test_leadership_stays_with_the_longest_leader() -> None:
    early, late = struct.pack(">d", 100.0), struct.pack(">d", 200.0)
    assert choose_leader({"b": early, "a": late, "0": b""}) == "b"
    assert choose_leader({"b": b"", "a": b""}) == "a"


def test_unknown_partitions_in_a_report_are_ignored() -> None:
    now = datetime.now(UTC)
    report = WorkerReport(
        worker="w", at=now, started_at=now, partitions=(999, 3, -1, 0), slots=5, running=0
    )
    assert messages.worker_offer(report, now.timestamp()).partitions == (0, 3)


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
    credit.apply_offer(messages.worker_offer(report, now.timestamp()))
    assert credit.limiting_cause(now.timestamp()) == "provider unavailable"
