"""The fair order under monthly budgets, against a backend that pays, fails, cancels, changes leaders and months."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.scheduler.budgets.rules import reservable_budget
from services.scheduler.estimates.rules import BUDGET, estimate_start_times
from services.scheduler.fair_queue.queue import FairQueue, WaitingJob

DEFAULT = 10
STORES = ("small", "large", "free")


def order() -> FairQueue:
    return FairQueue(cap=1_000, default_cost=DEFAULT)


def fill(fair: FairQueue, store: str, jobs: int, first: int = 0) -> None:
    for number in range(first, first + jobs):
        fair.enqueue(WaitingJob.create(job=number, store=store, created_at=float(number)), 0)


def picked(fair: FairQueue) -> list[tuple[object, str]]:
    found = []
    while (pick := fair.pick_next(0)) is not None:
        found.append((pick.job, pick.store))
    return found


def test_a_store_goes_as_far_as_its_budget_and_others_go_on() -> None:
    fair = order()
    fair.set_budgets({"small": 35})
    fill(fair, "small", 5)
    fill(fair, "free", 5, first=10)
    assert Counter(store for _, store in picked(fair)) == {"small": 3, "free": 5}
    assert fair.count_waiting("small") == 2


def test_a_job_that_costs_less_than_was_reserved_lets_another_go() -> None:
    fair = order()
    fair.set_budgets({"small": 10})
    fill(fair, "small", 2)
    assert picked(fair) == [(0, "small")]
    fair.settle_job(0, "small", 0, ended=True)
    assert picked(fair) == [(1, "small")]


def test_a_raised_budget_and_none_let_go_what_was_held() -> None:
    fair = order()
    fair.set_budgets({"small": 0})
    fill(fair, "small", 5)
    assert picked(fair) == []
    fair.set_budgets({"small": 25})
    assert picked(fair) == [(0, "small"), (1, "small")]
    fair.set_budgets({"small": None})
    assert len(picked(fair)) == 3


def test_who_was_held_brings_no_credit_from_that_time() -> None:
    fair = order()
    fair.set_budgets({"small": 0})
    fill(fair, "small", 20)
    fill(fair, "free", 40, first=100)
    for _ in range(20):
        pick = fair.pick_next(0)
        assert pick is not None
        fair.settle_job(pick.job, pick.store, pick.reserved, ended=True)
    fair.set_budgets({"small": 1_000})
    assert Counter(store for _, store in picked(fair)[:20]) == {"small": 10, "free": 10}


def test_what_is_held_is_told_apart_from_what_will_go() -> None:
    fair = order()
    fair.set_budgets({"small": 0, "large": 25})
    fill(fair, "small", 3)
    fill(fair, "large", 5, first=10)
    found = {one.store: one for one in estimate_start_times(fair.queue_states(0), money_per_s=1, limited_by=None)}
    assert (found["small"].reason, found["small"].queued, found["small"].held) == (BUDGET, 0, 3)
    assert (found["large"].reason == BUDGET, found["large"].queued, found["large"].held) == (
        False,
        2,
        3,
    )
    assert fair.summarize_due_jobs(0)[0] == 5, (
        "what is held is not due: it would alarm whoever watches the oldest wait"
    )


@dataclass(slots=True)
class Job:
    """A row: what was paid for it, and what of that was charged."""

    store: str
    paid: int = 0
    charged: int = 0
    flying: bool = False
    estimate: int = 0


class Months(RuleBasedStateMachine):
    """`jobs` and `ledger` are what PostgreSQL has; the order sees them at a look, as a new leader or at a sweep."""

    def __init__(self) -> None:
        super().__init__()
        self.fair = order()
        self.jobs: dict[int, Job] = {}
        self.ended: Counter[str] = Counter()
        self.ledger: Counter[str] = Counter()
        self.monthly = {"small": 40, "large": 200}
        self.underrated: Counter[str] = Counter()
        """By how much jobs of this month have cost more than was reserved for them."""
        self.numbers = 0
        self.look()

    def flying(self, store: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.store == store and job.flying]

    def unsettled(self, store: str) -> int:
        return sum(job.paid - job.charged for job in self.flying(store))

    def committed(self, store: str) -> int:
        """What is settled of this month, and reserved."""
        return (
            self.ledger[store]
            - self.unsettled(store)
            + sum(job.estimate for job in self.flying(store))
        )

    @rule()
    def look(self) -> None:
        self.fair.set_budgets(
            {
                store: reservable_budget(
                    monthly=monthly, spent=self.ledger[store], unsettled=self.unsettled(store)
                )
                for store, monthly in self.monthly.items()
            }
        )

    @rule(store=st.sampled_from(STORES))
    def ask(self, store: str) -> None:
        self.numbers += 1
        self.jobs[self.numbers] = Job(store)
        self.fair.enqueue(WaitingJob.create(job=self.numbers, store=store, created_at=self.numbers), 0)

    @rule()
    def forward(self) -> None:
        pick = self.fair.pick_next(0)
        if pick is None:
            for job in self.jobs.values():
                if not job.flying:
                    assert job.store in self.monthly, "who has no budget is never held"
                    fits = (
                        self.committed(job.store) + self.fair.estimate_cost(job.store)
                        <= self.monthly[job.store]
                    )
                    assert not fits, "nothing is held while it fits"
            return
        assert isinstance(pick.job, int)
        self.jobs[pick.job].flying, self.jobs[pick.job].estimate = True, pick.reserved
        if pick.store in self.monthly:
            assert self.committed(pick.store) <= self.monthly[pick.store]

    @precondition(lambda self: any(job.flying for job in self.jobs.values()))
    @rule(data=st.data(), cost=st.integers(0, 20))
    def pay(self, data: st.DataObject, cost: int) -> None:
        job = self.jobs[
            data.draw(st.sampled_from([number for number, job in self.jobs.items() if job.flying]))
        ]
        above = max(job.paid - job.charged - job.estimate, 0)
        job.paid += cost
        self.ledger[job.store] += cost
        self.underrated[job.store] += max(job.paid - job.charged - job.estimate, 0) - above

    @precondition(lambda self: any(job.flying for job in self.jobs.values()))
    @rule(data=st.data(), ends=st.booleans())
    def settle(self, data: st.DataObject, ends: bool) -> None:
        """It ends, or goes back to the queue for another try."""
        number = data.draw(
            st.sampled_from([number for number, job in self.jobs.items() if job.flying])
        )
        job = self.jobs[number]
        self.fair.settle_job(number, job.store, job.paid - job.charged, ended=ends)
        job.charged, job.flying = job.paid, False
        if ends:
            self.ended[job.store] += 1
            del self.jobs[number]
        else:
            self.fair.enqueue(WaitingJob.create(job=number, store=job.store, created_at=number), 0)

    @precondition(lambda self: any(not job.flying for job in self.jobs.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(
            st.sampled_from([number for number, job in self.jobs.items() if not job.flying])
        )
        self.fair.remove_pending(number)
        del self.jobs[number]

    @rule()
    def take_over(self) -> None:
        """Another leads: all that it knows is what PostgreSQL has, and that is enough."""
        self.look()  # settles made since are in both; a call paid meanwhile is no longer counted twice
        before = {store: self.fair.budget_headroom(store) for store in self.monthly}
        old, self.fair = self.fair, order()
        for store in STORES:
            self.fair.restore_store(
                store,
                weight=1,
                served=0,
                mean_cost=old.estimate_cost(store),
                settled_jobs=self.ended[store],
            )
        for number, job in self.jobs.items():
            if job.flying:
                self.fair.restore_in_flight(number, job.store, job.estimate)
            else:
                self.fair.restore_pending(WaitingJob.create(job=number, store=job.store, created_at=number), 0)
        self.fair.finish_restore()
        self.look()
        assert {store: self.fair.budget_headroom(store) for store in self.monthly} == before

    @rule()
    def turn_the_month(self) -> None:
        self.ledger.clear()
        self.underrated.clear()
        for job in (
            self.jobs.values()
        ):  # what is under way was reserved for, at what is left of its estimate
            self.underrated[job.store] += max(job.paid - job.charged - job.estimate, 0)
        self.look()

    @rule(more=st.integers(0, 50))
    def raise_the_budget(self, more: int) -> None:
        self.monthly["small"] += more
        self.look()

    @invariant()
    def the_order_counts_as_postgresql_does(self) -> None:
        for store, monthly in self.monthly.items():
            waiting = sum(job.store == store and not job.flying for job in self.jobs.values())
            expected = monthly - self.committed(store) - waiting * self.fair.estimate_cost(store)
            assert self.fair.budget_headroom(store) == expected

    @invariant()
    def no_store_spends_more_than_its_budget_and_what_was_underrated(self) -> None:
        for store, monthly in self.monthly.items():
            assert self.ledger[store] <= monthly + self.underrated[store]


TestMonths = Months.TestCase
TestMonths.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
