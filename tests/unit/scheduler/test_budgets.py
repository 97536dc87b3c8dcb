"""The fair queue under monthly budgets: payments, cancels, failovers and changes of the month."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.scheduler.budgets.rules import reservable_budget
from services.scheduler.estimates.rules import estimate_start_times
from services.scheduler.fair_queue.queue import FairQueue, WaitingJob
from shared.domain.reasons import WaitReason

DEFAULT = 10
STORES = ("small", "large", "free")


def create_queue() -> FairQueue:
    return FairQueue(cap=1_000, default_cost=DEFAULT)


def fill(fair: FairQueue, store: str, jobs: int, first: int = 0) -> None:
    for number in range(first, first + jobs):
        fair.enqueue(WaitingJob.create(job=number, store=store, created_at=float(number)), 0)


def pick_all(fair: FairQueue) -> list[tuple[object, str]]:
    found = []
    while (pick := fair.pick_next(0)) is not None:
        found.append((pick.job, pick.store))
    return found


def test_budget_limits_one_store_and_no_other() -> None:
    fair = create_queue()
    fair.set_budgets({"small": 35})
    fill(fair, "small", 5)
    fill(fair, "free", 5, first=10)
    assert Counter(store for _, store in pick_all(fair)) == {"small": 3, "free": 5}
    assert fair.count_waiting("small") == 2


def test_unused_reservation_releases_the_next_job() -> None:
    fair = create_queue()
    fair.set_budgets({"small": 10})
    fill(fair, "small", 2)
    assert pick_all(fair) == [(0, "small")]
    fair.settle_job(0, "small", 0, ended=True)
    assert pick_all(fair) == [(1, "small")]


def test_raised_or_removed_budget_releases_held_jobs() -> None:
    fair = create_queue()
    fair.set_budgets({"small": 0})
    fill(fair, "small", 5)
    assert pick_all(fair) == []
    fair.set_budgets({"small": 25})
    assert pick_all(fair) == [(0, "small"), (1, "small")]
    fair.set_budgets({"small": None})
    assert len(pick_all(fair)) == 3


def test_held_store_gains_no_advantage() -> None:
    fair = create_queue()
    fair.set_budgets({"small": 0})
    fill(fair, "small", 20)
    fill(fair, "free", 40, first=100)
    for _ in range(20):
        pick = fair.pick_next(0)
        assert pick is not None
        fair.settle_job(pick.job, pick.store, pick.reserved, ended=True)
    fair.set_budgets({"small": 1_000})
    assert Counter(store for _, store in pick_all(fair)[:20]) == {"small": 10, "free": 10}


def test_estimates_separate_held_jobs_from_queued_ones() -> None:
    fair = create_queue()
    fair.set_budgets({"small": 0, "large": 25})
    fill(fair, "small", 3)
    fill(fair, "large", 5, first=10)
    found = {
        one.store: one
        for one in estimate_start_times(fair.queue_states(0), money_per_s=1, limited_by=None)
    }
    assert (found["small"].reason, found["small"].queued, found["small"].held) == (
        WaitReason.BUDGET,
        0,
        3,
    )
    assert (
        found["large"].reason == WaitReason.BUDGET,
        found["large"].queued,
        found["large"].held,
    ) == (
        False,
        2,
        3,
    )
    assert fair.summarize_due_jobs(0)[0] == 5, (
        "held jobs are not due: they would raise the alert on the oldest wait"
    )


@dataclass(slots=True)
class BudgetedJob:
    """A job's row: the money paid and the part of it already charged."""

    store: str
    paid: int = 0
    charged: int = 0
    in_flight: bool = False
    estimate: int = 0


class BudgetMachine(RuleBasedStateMachine):
    """`jobs` and `spend` are in PostgreSQL. A failover or a refresh copies them to the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.fair = create_queue()
        self.jobs: dict[int, BudgetedJob] = {}
        self.ended: Counter[str] = Counter()
        self.spend: Counter[str] = Counter()
        self.monthly = {"small": 40, "large": 200}
        self.underestimated: Counter[str] = Counter()
        """Money by which this month's jobs exceed their reservations."""
        self.numbers = 0
        self.refresh_budgets()

    def jobs_in_flight(self, store: str) -> list[BudgetedJob]:
        return [job for job in self.jobs.values() if job.store == store and job.in_flight]

    def unsettled(self, store: str) -> int:
        return sum(job.paid - job.charged for job in self.jobs_in_flight(store))

    def committed(self, store: str) -> int:
        """Return this month's settled and reserved money."""
        return (
            self.spend[store]
            - self.unsettled(store)
            + sum(job.estimate for job in self.jobs_in_flight(store))
        )

    @rule()
    def refresh_budgets(self) -> None:
        self.fair.set_budgets(
            {
                store: reservable_budget(
                    monthly=monthly, spent=self.spend[store], unsettled=self.unsettled(store)
                )
                for store, monthly in self.monthly.items()
            }
        )

    @rule(store=st.sampled_from(STORES))
    def submit(self, store: str) -> None:
        self.numbers += 1
        self.jobs[self.numbers] = BudgetedJob(store)
        self.fair.enqueue(
            WaitingJob.create(job=self.numbers, store=store, created_at=self.numbers), 0
        )

    @rule()
    def dispatch(self) -> None:
        pick = self.fair.pick_next(0)
        if pick is None:
            for job in self.jobs.values():
                if not job.in_flight:
                    assert job.store in self.monthly, "a store without a budget is never held"
                    fits = (
                        self.committed(job.store) + self.fair.estimate_cost(job.store)
                        <= self.monthly[job.store]
                    )
                    assert not fits, "no job is held while it fits"
            return
        assert isinstance(pick.job, int)
        self.jobs[pick.job].in_flight, self.jobs[pick.job].estimate = True, pick.reserved
        if pick.store in self.monthly:
            assert self.committed(pick.store) <= self.monthly[pick.store]

    @precondition(lambda self: any(job.in_flight for job in self.jobs.values()))
    @rule(data=st.data(), cost=st.integers(0, 20))
    def pay(self, data: st.DataObject, cost: int) -> None:
        job = self.jobs[
            data.draw(
                st.sampled_from([number for number, job in self.jobs.items() if job.in_flight])
            )
        ]
        above = max(job.paid - job.charged - job.estimate, 0)
        job.paid += cost
        self.spend[job.store] += cost
        self.underestimated[job.store] += max(job.paid - job.charged - job.estimate, 0) - above

    @precondition(lambda self: any(job.in_flight for job in self.jobs.values()))
    @rule(data=st.data(), ends=st.booleans())
    def settle(self, data: st.DataObject, ends: bool) -> None:
        """The job ends, or returns to the queue."""
        number = data.draw(
            st.sampled_from([number for number, job in self.jobs.items() if job.in_flight])
        )
        job = self.jobs[number]
        self.fair.settle_job(number, job.store, job.paid - job.charged, ended=ends)
        job.charged, job.in_flight = job.paid, False
        if ends:
            self.ended[job.store] += 1
            del self.jobs[number]
        else:
            self.fair.enqueue(WaitingJob.create(job=number, store=job.store, created_at=number), 0)

    @precondition(lambda self: any(not job.in_flight for job in self.jobs.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(
            st.sampled_from([number for number, job in self.jobs.items() if not job.in_flight])
        )
        self.fair.remove_pending(number)
        del self.jobs[number]

    @rule()
    def fail_over(self) -> None:
        """A new leader restores the queue from PostgreSQL alone."""
        # Otherwise payments since the last refresh would count twice.
        self.refresh_budgets()
        before = {store: self.fair.budget_headroom(store) for store in self.monthly}
        old, self.fair = self.fair, create_queue()
        for store in STORES:
            self.fair.restore_store(
                store,
                weight=1,
                served=0,
                mean_cost=old.estimate_cost(store),
                settled_jobs=self.ended[store],
            )
        for number, job in self.jobs.items():
            if job.in_flight:
                self.fair.restore_in_flight(number, job.store, job.estimate)
            else:
                self.fair.restore_pending(
                    WaitingJob.create(job=number, store=job.store, created_at=number), 0
                )
        self.fair.finish_restore()
        self.refresh_budgets()
        assert {store: self.fair.budget_headroom(store) for store in self.monthly} == before

    @rule()
    def begin_month(self) -> None:
        self.spend.clear()
        self.underestimated.clear()
        for job in self.jobs.values():  # jobs in flight keep the rest of their reservations
            self.underestimated[job.store] += max(job.paid - job.charged - job.estimate, 0)
        self.refresh_budgets()

    @rule(more=st.integers(0, 50))
    def raise_budget(self, more: int) -> None:
        self.monthly["small"] += more
        self.refresh_budgets()

    @invariant()
    def headroom_matches_postgresql(self) -> None:
        for store, monthly in self.monthly.items():
            waiting = sum(job.store == store and not job.in_flight for job in self.jobs.values())
            expected = monthly - self.committed(store) - waiting * self.fair.estimate_cost(store)
            assert self.fair.budget_headroom(store) == expected

    @invariant()
    def no_store_exceeds_its_budget_and_underestimates(self) -> None:
        for store, monthly in self.monthly.items():
            assert self.spend[store] <= monthly + self.underestimated[store]


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
