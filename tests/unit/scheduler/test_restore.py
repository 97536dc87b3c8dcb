"""Restoring the fair queue at a failover: the same order, and no advantage from a crash."""

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.fair_queue.queue import FairQueue, WaitingJob

CAP = 3
DEFAULT = 10


@dataclass
class SavedQueue:
    """The state in PostgreSQL: counters, waiting jobs, and jobs in flight with their reservations.

    The stores in `together` share one account.
    """

    together: frozenset[str] = frozenset()
    counters: dict[str, list[int]] = field(default_factory=dict)
    accounts: dict[str, int] = field(default_factory=dict)
    waiting: dict[int, WaitingJob] = field(default_factory=dict)
    in_flight: dict[int, tuple[str, int]] = field(default_factory=dict)

    def save_counters(self, fair: FairQueue) -> None:
        for change in fair.take_counter_changes():
            served, _, jobs = self.counters.get(change.store, [0, 0, 0])
            self.counters[change.store] = [
                served + change.served,
                change.mean_cost,
                jobs + change.settled_jobs,
            ]
            self.accounts[change.account] = (
                self.accounts.get(change.account, 0) + change.account_served
            )

    def restore_counters(self) -> FairQueue:
        fair = FairQueue(cap=CAP, default_cost=DEFAULT)
        for account, money in self.accounts.items():
            fair.restore_account(account, weight=1, served=money)
        for store in {*self.counters, *self.together}:
            served, mean_cost, jobs = self.counters.get(store, [0, 0, 0])
            fair.restore_store(
                store,
                weight=1,
                served=served,
                mean_cost=mean_cost,
                settled_jobs=jobs,
                account="together" if store in self.together else None,
            )
        return fair

    def restore_queue(self, shuffle: random.Random) -> FairQueue:
        fair = self.restore_counters()
        rows: list[int] = [*self.waiting, *self.in_flight]
        shuffle.shuffle(rows)
        for number in rows:
            if number in self.in_flight:
                fair.restore_in_flight(number, *self.in_flight[number])
            else:
                fair.restore_pending(self.waiting[number], 0)
        fair.finish_restore()
        return fair


def play_script(
    script: list[tuple[str, int, int]], together: frozenset[str]
) -> tuple[FairQueue, SavedQueue]:
    saved = SavedQueue(together=together)
    fair = saved.restore_counters()
    for number, (action, which, amount) in enumerate(script):
        if action == "add" and not saved.in_flight:  # so that no store has a head start
            saved.waiting[number] = WaitingJob.create(
                job=number, store=f"s{which}", created_at=number
            )
            fair.enqueue(saved.waiting[number], 0)
        elif action == "pick" and (pick := fair.pick_next(0)):
            assert isinstance(pick.job, int)
            saved.in_flight[pick.job] = (pick.store, pick.reserved)
            del saved.waiting[pick.job]
        elif action == "settle" and saved.in_flight:
            ended = sorted(saved.in_flight)[which % len(saved.in_flight)]
            fair.settle_job(ended, saved.in_flight.pop(ended)[0], amount, ended=True)
        saved.save_counters(fair)
    return fair, saved


def next_jobs(fair: FairQueue) -> list[object]:
    return [pick.job for _ in range(100) if (pick := fair.pick_next(0))]


# Jobs cost between 0.5 and 1.5 times the estimate: no store reaches the bound of `finish_restore`.
scripts = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "pick", "settle"]), st.integers(0, 4), st.integers(5, 15)
    ),
    max_size=80,
)


@given(
    scripts, st.frozensets(st.sampled_from(["s0", "s1", "s2"])), st.randoms(use_true_random=False)
)
@settings(max_examples=300)
def test_restored_queue_has_the_same_order(
    script: list[tuple[str, int, int]], together: frozenset[str], shuffle: random.Random
) -> None:
    fair, saved = play_script(script, together)
    restored = saved.restore_queue(shuffle)
    assert sorted(restored.summarize_stores()) == sorted(fair.summarize_stores())
    assert restored.in_flight_jobs() == fair.in_flight_jobs()
    assert next_jobs(restored) == next_jobs(fair)


def test_lost_advance_gives_bounded_advantage() -> None:
    """The leader died before it saved a new store's advance: the new store must not monopolize."""
    fair = FairQueue(cap=CAP, default_cost=DEFAULT)
    fair.restore_store("old", weight=1, served=1_000_000, mean_cost=10, settled_jobs=100_000)
    for number in range(40):
        fair.restore_pending(
            WaitingJob.create(job=number, store="old" if number % 2 else "new", created_at=number),
            0,
        )
    fair.finish_restore()
    first = next_jobs(fair)[:20]
    assert sum(isinstance(job, int) and job % 2 for job in first) >= 10 - CAP


def test_store_idle_at_failover_keeps_its_share() -> None:
    """A new store that arrives first, while no store waits, starts where the others are."""
    fair = FairQueue(cap=100, default_cost=DEFAULT)
    fair.restore_store("old", weight=1, served=1_000_000, mean_cost=10, settled_jobs=100_000)
    fair.finish_restore()
    for number in range(20):
        fair.enqueue(WaitingJob.create(job=number, store="new", created_at=number), 0)
    for number in range(20, 40):
        fair.enqueue(WaitingJob.create(job=number, store="old", created_at=number), 0)
    assert sum(isinstance(job, int) and job < 20 for job in next_jobs(fair)[:10]) == 5


def served_after(stores: dict[str, tuple[int, int]], *, waiting: list[str]) -> dict[str, int]:
    """Restore stores, given as (served, mean cost), and return their `served` afterwards."""
    fair = FairQueue(cap=CAP, default_cost=DEFAULT)
    for store, (served, mean_cost) in stores.items():
        fair.restore_store(store, weight=1, served=served, mean_cost=mean_cost, settled_jobs=9)
    for number, store in enumerate(waiting):
        fair.restore_pending(WaitingJob.create(job=number, store=store, created_at=number), 0)
    fair.finish_restore()
    return {store: served for store, _, _, served, _ in fair.summarize_stores()}


def test_store_behind_within_the_bound_is_not_advanced() -> None:
    after = served_after({"ahead": (1_000, 10), "behind": (980, 10)}, waiting=["ahead", "behind"])
    assert after == {"ahead": 1_000, "behind": 980}


def test_job_restored_in_flight_no_longer_waits() -> None:
    fair = FairQueue(cap=CAP, default_cost=DEFAULT)
    fair.enqueue(WaitingJob.create(job=1, store="a", created_at=1), 0)
    fair.restore_in_flight(1, "a", 7)
    assert (fair.pending, fair.in_flight, fair.pick_next(0)) == (0, 1, None)


def test_idle_store_far_ahead_advances_no_waiting_store() -> None:
    stores = {"idle": (1_000_000, 10), "heavy": (1_000, 100), "light": (1_000, 10)}
    assert served_after(stores, waiting=["heavy", "light"]) == {"heavy": 1_000, "light": 1_000}


def test_failover_ends_a_head_start() -> None:
    """A store that came while jobs were in flight is then where the other store is."""
    saved = SavedQueue()
    fair = saved.restore_counters()

    def enqueue(number: int, store: str) -> None:
        saved.waiting[number] = WaitingJob.create(job=number, store=store, created_at=number)
        fair.enqueue(saved.waiting[number], 0)

    enqueue(1, "busy")
    enqueue(2, "busy")
    pick = fair.pick_next(0)
    assert pick is not None
    saved.in_flight[1] = (pick.store, pick.reserved)
    del saved.waiting[1]
    enqueue(3, "new")
    saved.save_counters(fair)
    restored = saved.restore_queue(random.Random(1))
    assert [next_jobs(queue)[0] for queue in (fair, restored)] == [3, 2]
