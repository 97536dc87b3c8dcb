"""The fair queue against a naive model, and the properties that its design guarantees."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.fair_queue.queue import FairQueue, WaitingJob

CAP = 3


def create_queue(cap: int = CAP, *, hard_cap: bool = False) -> FairQueue:
    return FairQueue(cap=cap, default_cost=10, hard_cap=hard_cap)


def job(number: int, store: str, **options: float) -> WaitingJob:
    return WaitingJob.create(job=number, store=store, created_at=float(number), **options)  # type: ignore[arg-type] # test options


def pick_all(fair: FairQueue, now: float = 0.0) -> list[object]:
    """Pick all jobs. Each ends at once at its reserved cost."""
    picked = []
    while (pick := fair.pick_next(now)) is not None:
        picked.append(pick.job)
        fair.settle_job(pick.job, pick.store, pick.reserved, ended=True)
    return picked


def test_store_with_smallest_virtual_time_goes_next() -> None:
    fair = create_queue()
    fair.restore_store("rich", weight=1, served=100, mean_cost=10, settled_jobs=5)
    fair.restore_store("poor", weight=1, served=50, mean_cost=10, settled_jobs=5)
    fair.enqueue(job(1, "poor"), 0)
    fair.enqueue(job(2, "rich"), 0)
    fair.enqueue(job(3, "poor"), 0)
    assert pick_all(fair) == [1, 3, 2]


def test_weight_divides_served_money() -> None:
    fair = create_queue()
    fair.restore_store("double", weight=2, served=0, mean_cost=10, settled_jobs=1)
    fair.restore_store("single", weight=1, served=0, mean_cost=10, settled_jobs=1)
    for number in range(0, 12, 2):
        fair.enqueue(job(number, "double"), 0)
        fair.enqueue(job(number + 1, "single"), 0)
    first_nine = pick_all(fair)[:9]
    assert sum(1 for number in first_nine if isinstance(number, int) and number % 2 == 0) == 6


def test_jobs_of_a_store_go_by_priority_then_age() -> None:
    fair = create_queue()
    fair.enqueue(job(1, "a"), 0)
    fair.enqueue(job(2, "a"), 0)
    fair.enqueue(job(3, "a", priority=5), 0)
    assert pick_all(fair) == [3, 1, 2]


def test_store_at_its_cap_waits_while_others_have_work() -> None:
    fair = create_queue(cap=1)
    fair.restore_store("busy", weight=1, served=0, mean_cost=1, settled_jobs=1)
    fair.restore_store("other", weight=1, served=1_000, mean_cost=1, settled_jobs=1)
    fair.enqueue(job(1, "busy"), 0)
    fair.enqueue(job(2, "busy"), 0)
    fair.enqueue(job(3, "other"), 0)
    picks = [fair.pick_next(0), fair.pick_next(0), fair.pick_next(0)]
    assert [pick.job for pick in picks if pick] == [1, 3, 2]


def test_hard_cap_is_never_exceeded() -> None:
    fair = create_queue(cap=1, hard_cap=True)
    fair.enqueue(job(1, "a"), 0)
    fair.enqueue(job(2, "a"), 0)
    first = fair.pick_next(0)
    assert first is not None
    assert fair.pick_next(0) is None
    fair.settle_job(first.job, "a", 10, ended=True)
    assert fair.pick_next(0) is not None


def test_delayed_job_waits_until_due() -> None:
    fair = create_queue()
    fair.enqueue(job(1, "a", not_before=50.0), 0)
    assert fair.pick_next(49) is None
    assert fair.next_due_at(49) == 50
    assert fair.pending == 1
    later = fair.pick_next(50)
    assert later is not None
    assert later.job == 1


def test_wait_counts_from_the_due_time() -> None:
    fair = create_queue()
    fair.enqueue(job(1, "a", not_before=50.0), 0)
    assert fair.summarize_due_jobs(49) == (0, None)
    fair.enqueue(job(7, "a"), 8)
    fair.enqueue(job(5, "b"), 8)
    assert fair.summarize_due_jobs(49) == (2, 5)
    assert fair.summarize_due_jobs(60) == (3, 5)
    pick_all(fair, 40)
    assert fair.summarize_due_jobs(60) == (1, 50)


def test_idle_store_gains_no_advantage() -> None:
    fair = create_queue(cap=100)
    for number in range(100):
        fair.enqueue(job(number, "busy"), 0)
    for _ in range(50):
        pick = fair.pick_next(0)
        assert pick is not None
        fair.settle_job(pick.job, pick.store, pick.reserved, ended=True)
    for number in range(100, 150):
        fair.enqueue(job(number, "returns"), 0)
    next_ten = [pick.store for _ in range(10) if (pick := fair.pick_next(0))]
    assert next_ten.count("returns") == 5


def test_settlement_replaces_the_reservation() -> None:
    fair = create_queue()
    fair.enqueue(job(1, "a"), 0)
    pick = fair.pick_next(0)
    assert pick is not None
    assert pick.reserved == 10
    fair.settle_job(1, "a", 70, ended=True)
    (change,) = fair.take_counter_changes()
    assert (change.served, change.settled_jobs, change.mean_cost) == (70, 1, 70)
    assert fair.take_counter_changes() == []
    fair.enqueue(job(2, "a"), 0)
    second = fair.pick_next(0)
    assert second is not None
    assert second.reserved == 70


def test_cancelled_job_is_skipped() -> None:
    fair = create_queue()
    for number in (1, 2, 3):
        fair.enqueue(job(number, "a"), 0)
    fair.remove_pending(1)
    fair.remove_pending(3)
    assert fair.pending == 1
    assert pick_all(fair) == [2]


def test_flood_adds_one_index_entry() -> None:
    """The cost of a decision depends on the stores with work, not on their number of jobs."""
    fair = create_queue()
    for number in range(1_000):
        fair.enqueue(job(number, "flood"), 0)
        fair.enqueue(job(number + 1_000, f"s{number % 3}"), 0)
    assert sum(map(len, fair._accounts_index._heaps)) == 4


@dataclass
class NaiveModel:
    """The same rule, written naively. The stores in `together` share one account."""

    cap: int
    together: frozenset[str] = frozenset()
    served: Counter[str] = field(default_factory=Counter)
    in_flight: dict[int, tuple[str, int]] = field(default_factory=dict)
    waiting: list[tuple[int, str, int]] = field(default_factory=list)
    last: Counter[str] = field(default_factory=Counter)
    head_starts: Counter[str] = field(default_factory=Counter)

    def account(self, store: str) -> str:
        return "+together" if store in self.together else "+" + store

    def advance(self, name: str, others: set[str], group: str) -> None:
        if name in others:
            return
        if not others:
            self.served[name] = max(self.served[name], self.last[group])
            return
        first = min(others, key=lambda other: (self.served[other], other))
        self.served[name] = max(
            self.served[name] + self.head_starts[name], self.served[first] - self.flying(first)
        )
        paid_back = self.served[first] + self.head_starts[first]
        self.head_starts[name] = max(paid_back - self.served[name], 0)

    def flying(self, name: str) -> int:
        """Return the cost of the jobs in flight of a store or an account."""
        return sum(
            cost for store, cost in self.in_flight.values() if name in (store, self.account(store))
        )

    def add(self, number: int, store: str, cost: int) -> None:
        account, stores = self.account(store), {other for _, other, _ in self.waiting}
        self.advance(account, {self.account(other) for other in stores}, "accounts")
        self.advance(store, {other for other in stores if self.account(other) == account}, account)
        self.waiting.append((number, store, cost))

    def pick(self) -> int | None:
        within = [
            job
            for job in self.waiting
            if sum(store == job[1] for store, _ in self.in_flight.values()) < self.cap
        ]
        candidates = within or self.waiting
        if not candidates:
            return None
        number, store, cost = min(candidates, key=lambda waiting: self._rank(*waiting))
        self.last["accounts"], self.last[self.account(store)] = (
            self.served[self.account(store)],
            self.served[store],
        )
        self.waiting.remove((number, store, cost))
        self._charge(store, cost)
        for name in (store, self.account(store)):
            paid = min(self.head_starts[name], cost)
            self.head_starts[name] -= paid
            self.served[name] += paid
        self.in_flight[number] = (store, cost)
        return number

    def settle(self, number: int, spent: int) -> None:
        store, cost = self.in_flight.pop(number)
        self._charge(store, spent - cost)

    def _rank(self, number: int, store: str, _: int) -> tuple[int, str, int, str, int]:
        account = self.account(store)
        return self.served[account], account, self.served[store], store, number

    def _charge(self, store: str, amount: int) -> None:
        self.served.update({store: amount, self.account(store): amount})


Action = tuple[str, int, int]
actions = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "pick", "settle"]), st.integers(0, 4), st.integers(1, 100)
    ),
    max_size=80,
)


some_stores = st.frozensets(st.sampled_from([f"s{number}" for number in range(5)]))


@given(actions, some_stores)
@settings(max_examples=500)
def test_order_matches_the_naive_model(script: list[Action], together: frozenset[str]) -> None:
    fair, model = create_queue(), NaiveModel(cap=CAP, together=together)
    for number in range(5):
        store = f"s{number}"
        fair.restore_store(
            store, weight=1, served=0, mean_cost=0, settled_jobs=0, account=model.account(store)
        )
    for number, (action, which, amount) in enumerate(script):
        if action == "add":
            fair.enqueue(
                WaitingJob.create(
                    job=number, store=f"s{which}", created_at=number, estimate=amount
                ),
                0,
            )
            model.add(number, f"s{which}", amount)
        elif action == "pick":
            pick = fair.pick_next(0)
            assert (pick.job if pick else None) == model.pick()
        elif model.in_flight:
            settled = sorted(model.in_flight)[which % len(model.in_flight)]
            fair.settle_job(settled, model.in_flight[settled][0], amount, ended=True)
            model.settle(settled, amount)
    assert fair.pending == len(model.waiting)
    assert fair.in_flight == len(model.in_flight)


@given(actions)
@settings(max_examples=200)
def test_charged_money_equals_spent_money(script: list[Action]) -> None:
    fair, spent, advanced = create_queue(), 0, 0
    in_flight: list[tuple[object, str]] = []
    for number, (action, which, amount) in enumerate(script):
        if action == "add":
            fair.enqueue(job(number, f"s{which}"), 0)
        elif action == "pick" and (pick := fair.pick_next(0)):
            in_flight.append((pick.job, pick.store))
        elif action == "settle" and in_flight:
            advanced += sum(change.served for change in fair.take_counter_changes())
            ended, store = in_flight.pop(which % len(in_flight))
            fair.settle_job(ended, store, amount, ended=True)
            spent += sum(change.served for change in fair.take_counter_changes()) - amount
    assert spent == 0
    assert advanced >= 0


def restored_queue(
    waiting: dict[object, str], in_flight: dict[object, str], cap: int, *, hard: bool
) -> FairQueue:
    """Restore the state into a queue with another cap."""
    fair = create_queue(cap, hard_cap=hard)
    for number, store in in_flight.items():
        fair.restore_in_flight(number, store, 10)
    for number, store in waiting.items():
        fair.restore_pending(WaitingJob.create(job=number, store=store, created_at=0.0), 0)
    fair.finish_restore()
    return fair


with_cap_changes = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "pick", "pick", "settle", "cap"]),
        st.integers(0, 4),
        st.integers(1, 100),
    ),
    max_size=80,
)


@given(with_cap_changes, st.booleans())
@settings(max_examples=400)
def test_no_idle_slot_and_no_store_beyond_its_cap(script: list[Action], hard: bool) -> None:
    fair, cap = create_queue(hard_cap=hard), CAP
    waiting: dict[object, str] = {}
    in_flight: dict[object, str] = {}
    for number, (action, which, amount) in enumerate(script):
        if action == "add":
            fair.enqueue(job(number, f"s{which}"), 0)
            waiting[number] = f"s{which}"
        elif action == "cap":
            cap = which + 1
            fair = restored_queue(waiting, in_flight, cap, hard=hard)
        elif action == "pick":
            below = {
                store for store in waiting.values() if list(in_flight.values()).count(store) < cap
            }
            pick = fair.pick_next(0)
            assert (pick is not None) == bool(below or (waiting and not hard))
            if pick is not None:
                assert not below or pick.store in below
                in_flight[pick.job] = waiting.pop(pick.job)
        elif in_flight:
            ended = sorted(in_flight, key=str)[which % len(in_flight)]
            fair.settle_job(ended, in_flight.pop(ended), amount, ended=True)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5)), min_size=2, max_size=6),
    st.integers(1, 4),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_backlogged_stores_are_served_within_fairness_bound(
    stores: list[tuple[int, int]], slots: int, data: st.DataObject
) -> None:
    """|W_f/w_f - W_g/w_g| <= L_f/w_f + L_g/w_g at every moment, at known costs, below the cap."""
    fair = create_queue(cap=100)
    served = dict.fromkeys(range(len(stores)), 0)
    for store, (_, weight) in enumerate(stores):
        fair.restore_store(f"s{store}", weight=weight, served=0, mean_cost=1, settled_jobs=1)
        for number in range(60):
            cost = data.draw(st.integers(1, stores[store][0])) if number < 5 else stores[store][0]
            fair.enqueue(
                WaitingJob.create(
                    job=(store, number), store=f"s{store}", created_at=number, estimate=cost
                ),
                0,
            )
    in_flight: list[tuple[object, str, int]] = []
    for _ in range(60):
        pick = fair.pick_next(0)
        assert pick is not None
        store = int(pick.store[1:])
        served[store] += pick.reserved
        in_flight.append((pick.job, pick.store, pick.reserved))
        if len(in_flight) > slots:
            ended, name, cost = in_flight.pop(0)
            fair.settle_job(ended, name, cost, ended=True)
        for f, g in combinations(served, 2):
            (largest_f, weight_f), (largest_g, weight_g) = stores[f], stores[g]
            gap = abs(served[f] / weight_f - served[g] / weight_g)
            assert gap <= largest_f / weight_f + largest_g / weight_g + 1e-9


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=5
    ),
    st.integers(1, 4),
)
@settings(max_examples=200, deadline=None)
def test_accounts_and_stores_stay_within_fairness_bound(
    accounts: list[tuple[int, int, int]], slots: int
) -> None:
    """Accounts are (largest cost, weight, number of stores). Also checks the stores of each."""
    fair = create_queue(cap=100)
    for account, (cost, weight, stores) in enumerate(accounts):
        fair.restore_account(f"a{account}", weight=weight, served=0)
        for store in range(stores):
            name = f"a{account}s{store}"
            fair.restore_store(
                name, weight=1, served=0, mean_cost=cost, settled_jobs=1, account=f"a{account}"
            )
            for number in range(80):
                fair.enqueue(
                    WaitingJob.create(job=(name, number), store=name, created_at=number), 0
                )
    served: Counter[str] = Counter()
    in_flight = []
    for _ in range(80):
        pick = fair.pick_next(0)
        assert pick is not None
        served.update({pick.store: pick.reserved, pick.store.partition("s")[0]: pick.reserved})
        in_flight.append(pick)
        if len(in_flight) > slots:
            ended = in_flight.pop(0)
            fair.settle_job(ended.job, ended.store, ended.reserved, ended=True)
        for (f, (cost_f, weight_f, _)), (g, (cost_g, weight_g, _)) in combinations(
            enumerate(accounts), 2
        ):
            gap = abs(served[f"a{f}"] / weight_f - served[f"a{g}"] / weight_g)
            assert gap <= cost_f / weight_f + cost_g / weight_g + 1e-9
        for account, (cost, _, stores) in enumerate(accounts):
            within = [served[f"a{account}s{store}"] for store in range(stores)]
            assert max(within) - min(within) <= 2 * cost


def next_served(fair: FairQueue, jobs: int) -> Counter[str]:
    """Count the next jobs by store. Each ends at once at its reserved cost."""
    served: Counter[str] = Counter()
    for _ in range(jobs):
        pick = fair.pick_next(0)
        assert pick is not None
        served[pick.store] += 1
        fair.settle_job(pick.job, pick.store, pick.reserved, ended=True)
    return served


def test_store_with_new_account_starts_where_its_siblings_are() -> None:
    fair = create_queue(cap=100)
    fair.restore_store("a", weight=1, served=0, mean_cost=10, settled_jobs=1, account="both")
    fair.restore_store("b", weight=1, served=0, mean_cost=10, settled_jobs=1)
    fair.restore_store("c", weight=1, served=0, mean_cost=10, settled_jobs=1)
    for number in range(300):
        fair.enqueue(job(number, "abc"[number % 3]), 0)
    assert next_served(fair, 30) == {"a": 10, "b": 10, "c": 10}
    fair.configure_store("b", account="both", weight=1)
    assert next_served(fair, 40) == {"a": 10, "b": 10, "c": 20}
    fair.configure_store("b", account=None, weight=1)
    assert next_served(fair, 60) == {"a": 20, "b": 20, "c": 20}


def test_new_weight_applies_at_once() -> None:
    fair = create_queue(cap=100)
    for number in range(300):
        fair.enqueue(job(number, "ab"[number % 2]), 0)
    fair.configure_store("a", account=None, weight=3)
    assert next_served(fair, 40) == {"a": 30, "b": 10}


def test_new_weight_neither_starves_nor_favours_store() -> None:
    fair = create_queue(cap=100)
    fair.restore_store("b", weight=1, served=0, mean_cost=10, settled_jobs=1, account="both")
    fair.restore_store("c", weight=1, served=0, mean_cost=10, settled_jobs=1, account="both")
    for number in range(3_000):
        fair.enqueue(job(number, "abc"[number % 3]), 0)
    next_served(fair, 1_000)
    fair.configure_store("a", account=None, weight=2)
    assert next_served(fair, 60) == {"a": 40, "b": 10, "c": 10}
    fair.configure_store("a", account=None, weight=0.5)
    assert next_served(fair, 60) == {"a": 20, "b": 20, "c": 20}
    fair.configure_store("b", account="both", weight=3, account_weight=1)
    assert next_served(fair, 60) == {"a": 20, "b": 30, "c": 10}
    fair.configure_store("c", account="both", weight=1, account_weight=0.5)
    assert next_served(fair, 60) == {"a": 30, "b": 22, "c": 8}


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=5
    ),
    st.integers(0, 60),
)
@settings(max_examples=200, deadline=None)
def test_service_bound_holds_after_weight_change(
    stores: list[tuple[int, int, int]], before: int
) -> None:
    """Stores are (cost, old weight, new weight), and always have work."""
    fair = create_queue(cap=100)
    for store, (cost, weight, _) in enumerate(stores):
        fair.restore_store(f"s{store}", weight=weight, served=0, mean_cost=cost, settled_jobs=1)
        for number in range(140):
            fair.enqueue(
                WaitingJob.create(job=(store, number), store=f"s{store}", created_at=number), 0
            )
    next_served(fair, before)
    for store, (_, _, weight) in enumerate(stores):
        fair.configure_store(f"s{store}", account=None, weight=weight)
    served: Counter[str] = Counter()
    for _ in range(60):
        served.update(next_served(fair, 1))
        for (f, (cost_f, old_f, weight_f)), (g, (cost_g, old_g, weight_g)) in combinations(
            enumerate(stores), 2
        ):
            gap = abs(served[f"s{f}"] * cost_f / weight_f - served[f"s{g}"] * cost_g / weight_g)
            # The old weights allow an initial difference of their own bound.
            initial = cost_f / old_f + cost_g / old_g
            assert gap <= cost_f / weight_f + cost_g / weight_g + initial + 1


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 5)), min_size=1, max_size=8),
    st.integers(0, 60),
)
@settings(max_examples=200)
def test_newcomer_waits_for_at_most_one_job_per_store(
    floods: list[tuple[int, int]], before: int
) -> None:
    """Endless floods (cost, weight) delay a newcomer by one job each."""
    fair = create_queue(cap=100)
    for number, (cost, weight) in enumerate(floods):
        fair.restore_store(
            f"flood{number}", weight=weight, served=0, mean_cost=cost, settled_jobs=1
        )
        for turn in range(100):
            fair.enqueue(
                WaitingJob.create(
                    job=(number, turn), store=f"flood{number}", created_at=float(turn)
                ),
                0,
            )
    next_served(fair, before)
    fair.enqueue(WaitingJob.create(job=(99, 99), store="newcomer", created_at=0.0), 0)
    overtaken = 0
    while (pick := fair.pick_next(0)) is not None and pick.store != "newcomer":
        overtaken += 1
    assert pick is not None
    assert overtaken <= len(floods)


def test_all_newcomers_pay_back_the_same_head_start() -> None:
    fair = create_queue(cap=100)
    for number in range(100):
        fair.enqueue(job(number, "flood"), 0)
    for _ in range(20):
        fair.pick_next(0)
    for number in range(100, 250):
        fair.enqueue(job(number, f"new-{number % 3}"), 0)
    picks = Counter(pick.store for _ in range(60) if (pick := fair.pick_next(0)))
    assert max(picks.values()) - min(picks[f"new-{one}"] for one in range(3)) <= 1
    assert picks["flood"] < min(picks[f"new-{one}"] for one in range(3)), "it has twenty in flight"


def test_changed_weight_keeps_reservations_as_they_are() -> None:
    fair = create_queue(cap=100)
    fair.restore_store("a", weight=10, served=0, mean_cost=10, settled_jobs=1)
    for number in range(20):
        fair.enqueue(job(number, "a"), 0)
        assert fair.pick_next(0) is not None
    fair.configure_store("a", account=None, weight=1)
    for number in range(20):
        fair.settle_job(number, "a", 10, ended=True)
    (summary,) = fair.summarize_stores({"a"})
    assert (summary.served, summary.weight) == (200, 1)
