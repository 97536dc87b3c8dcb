"""Credit: who may be sent how much, and where."""

import struct
from datetime import UTC, datetime

from services.scheduler import messages
from services.scheduler.dispatch.rules import WorkerCredit, WorkerOffer
from services.scheduler.leadership.assignor import choose_leader
from shared.domain.messages import LimiterReport, WorkerReport


def offer(worker: str, *partitions: int, slots: int = 2, at: float = 0) -> WorkerOffer:
    return WorkerOffer(worker=worker, partitions=partitions, slots=slots, at=at)


def take(credit: WorkerCredit, now: float = 0) -> list[int]:
    """Forward until nobody has credit: the partitions chosen."""
    chosen: list[int] = []
    while (partition := credit.best_partition(now)) is not None:
        credit.record_dispatch(f"job {len(chosen)} {partition}", partition)
        chosen.append(partition)
    return chosen


def test_no_more_than_the_slots_are_outstanding() -> None:
    credit = WorkerCredit(silence_s=5)
    credit.apply_offer(offer("w", 0, 1, slots=3))
    assert sorted(take(credit)) == [0, 0, 1]


def test_the_worker_with_the_most_credit_goes_first() -> None:
    credit = WorkerCredit(silence_s=5)
    credit.apply_offer(offer("small", 0, slots=1))
    credit.apply_offer(offer("large", 1, slots=3))
    assert take(credit) == [1, 1, 0, 1]


def test_a_settled_job_gives_its_credit_back() -> None:
    credit = WorkerCredit(silence_s=5)
    credit.apply_offer(offer("w", 0, slots=1))
    credit.record_dispatch("job", 0)
    assert credit.best_partition(0) is None
    credit.record_settlement("job")
    credit.record_settlement("job")
    assert take(credit) == [0]


def test_a_silent_worker_has_no_credit() -> None:
    credit = WorkerCredit(silence_s=5)
    credit.apply_offer(offer("w", 0, at=0))
    assert credit.best_partition(5) == 0
    assert credit.best_partition(5.1) is None


def test_a_draining_worker_and_one_without_partitions_have_no_credit() -> None:
    credit = WorkerCredit(silence_s=5)
    credit.apply_offer(offer("draining", 0, slots=0))
    credit.apply_offer(offer("newcomer"))
    assert credit.best_partition(0) is None


def test_an_old_report_does_not_undo_a_new_one() -> None:
    credit = WorkerCredit(silence_s=5)
    credit.apply_offer(offer("w", 0, slots=0, at=2))
    credit.apply_offer(offer("w", 0, slots=9, at=1))
    assert credit.best_partition(2) is None


def test_what_moved_to_another_worker_counts_against_that_one() -> None:
    credit = WorkerCredit(silence_s=5)
    credit.apply_offer(offer("a", 0, 1, slots=2))
    credit.record_dispatch("job", 1)
    credit.apply_offer(offer("a", 0, slots=2, at=1))
    credit.apply_offer(offer("b", 1, slots=2, at=1))
    assert sorted(take(credit, 1)) == [0, 0, 1]


def test_what_a_dead_worker_had_claimed_does_not_keep_its_successor_idle() -> None:
    credit = WorkerCredit(silence_s=5)
    credit.apply_offer(offer("dead", 0, slots=2))
    for job in ("claimed", "on its way"):
        credit.record_dispatch(job, 0)
    credit.record_claim("claimed", "dead")
    credit.record_claim("claimed", "dead")
    assert take(credit) == []
    credit.apply_offer(offer("successor", 0, slots=2, at=9))
    assert take(credit, 9) == [0], "it will have to do what nobody has claimed"
    credit.record_settlement("claimed")
    assert take(credit, 9) == []


def test_a_job_counts_against_who_runs_it_though_its_partition_has_moved() -> None:
    credit = WorkerCredit(silence_s=5)
    credit.record_dispatch("before the takeover", 1, claimed_by="a")
    credit.record_dispatch("since", 1)
    credit.record_claim("since", "a")
    credit.record_claim("unheard of", "a")
    credit.apply_offer(offer("a", 0, slots=3))
    credit.apply_offer(offer("b", 1, slots=1))
    assert sorted(take(credit)) == [0, 1]
    credit.record_settlement("since")
    assert credit.best_partition(0) == 0


def test_the_lead_stays_with_whom_it_is() -> None:
    long_since, newly = struct.pack(">d", 100.0), struct.pack(">d", 200.0)
    assert choose_leader({"b": long_since, "a": newly, "0": b""}) == "b"
    assert choose_leader({"b": b"", "a": b""}) == "a"


def test_a_partition_that_there_is_not_gets_no_job() -> None:
    now = datetime.now(UTC)
    report = WorkerReport(
        worker="w", at=now, started_at=now, partitions=(999, 3, -1, 0), slots=5, running=0
    )
    assert messages.worker_offer(report, now.timestamp()).partitions == (0, 3)


def test_an_account_without_money_is_named_as_what_limits_a_worker() -> None:
    now = datetime.now(UTC)
    shut = LimiterReport(
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
        worker="w", at=now, started_at=now, partitions=(0,), slots=0, running=0, limiters=(shut,)
    )
    credit = WorkerCredit(silence_s=5)
    credit.apply_offer(messages.worker_offer(report, now.timestamp()))
    assert credit.limiting_cause(now.timestamp()) == "provider unavailable"
