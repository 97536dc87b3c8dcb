"""The fair order: a virtual counter of money spent, per account and per store, with reserve and settle.

The account that goes next is the one that has been served the least money per weight, among those with work waiting
and fewer than `cap` jobs in flight for the store in question; of its stores, the same. Forwarding charges an estimate
at once, the result corrects it, so nobody can run ahead while its bills are still open. Who comes back from idle
starts at the least counter among those that have work waiting: it keeps no credit from the time it asked for nothing.

A store with a budget reserves from that, too. While its next job does not fit, it stands in no line, and when there is
room again it begins where the others stand.

Every operation is O(log n) in the accounts and stores with work waiting.

After a takeover the order is the one that was left: `restore` counters, `adopt` jobs in flight, `take_up` those that
wait (in any sequence: nobody is lifted meanwhile), then `resume`.
"""

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from services.scheduler.budgets import rules
from services.scheduler.estimates.rules import QueueState
from services.scheduler.fair_queue.accounts import AccountState, CounterChange, JobId, StoreQueue, WaitingJob
from services.scheduler.fair_queue.priority_index import CapClass, PriorityIndex

__all__ = ["CounterChange", "FairQueue", "JobId", "PickedJob", "WaitingJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PickedJob:
    job: JobId
    store: str
    reserved: int
    """Nano-USD charged to the store until the bill is known."""
    account: str
    account_weight: float
    due_at: float
    """Since when it has waited: when it was asked for, or not before."""


class FairQueue:
    """The backlog's order. `cap` is how many jobs a store may have in flight while others wait."""

    def __init__(self, *, cap: int, default_cost: int, hard_cap: bool = False) -> None:
        self._cap = cap
        self._hard_cap = hard_cap
        self._default_cost = default_cost
        self._stores: dict[str, StoreQueue] = {}
        self._waiting: dict[JobId, WaitingJob] = {}
        self._flying: dict[JobId, tuple[str, int]] = {}
        self._delayed: list[tuple[float, WaitingJob]] = []
        self._accounts: dict[str, AccountState] = {}
        self._line: PriorityIndex[AccountState] = PriorityIndex()
        """The accounts with work waiting."""
        self._last_position = 0.0
        """Where the account stood that was picked last: the place of a newcomer when nobody else waits."""
        self._changed: set[str] = set()
        """Stores whose counters may have changed since changes were last taken."""

    def restore_account(self, account: str, *, weight: float, served: int) -> None:
        """Take up an account's saved counter. Called before its stores are restored."""
        known = self._accounts.setdefault(account, AccountState(name=account))
        known.weight, known.served = weight, served

    def restore(
        self,
        store: str,
        *,
        weight: float,
        served: int,
        mean_cost: int,
        settled_jobs: int,
        account: str | None = None,
    ) -> None:
        """Take up a store's saved counter. Called before any of its jobs is added. Without an account it is one by
        itself, with its own weight; an account of which nothing was saved was served what its stores were."""
        if (account or store) not in self._accounts:
            self.restore_account(account or store, weight=1.0, served=served)
        self._stores[store] = StoreQueue(
            name=store,
            account=self._account(account or store),
            weight=weight,
            served=served,
            mean_cost=mean_cost,
            settled_jobs=settled_jobs,
        )
        if account is None:
            self._stores[store].account.weight = weight

    def assign(
        self, store_name: str, *, account: str | None, weight: float, account_weight: float = 1.0
    ) -> None:
        """Let a store belong to an account (None: by itself) from now on, and weigh so much; it keeps its place.
        What it has in flight is charged where it belongs now; what it was served before stays with the account
        that it leaves: among its new siblings it begins where they stand."""
        store = self._store(store_name)
        left, joined = store.account, self._account(account or store_name)
        store.reweigh(weight)
        joined.reweigh(account_weight if account else weight)
        if joined is not left:
            left.line.place(store, None)
            self._line.place(left, left.line.front())
            open_bills = sum(
                reserved for name, reserved in self._flying.values() if name == store_name
            )
            left.served -= open_bills
            joined.served += open_bills
            store.account = joined
            store.move_to(joined.line.least(default=joined.last_position))
            if store.queue:
                self._lift(store)
        self._changed.add(store_name)
        self._enter(store)

    def allow(self, money: Mapping[str, int | None]) -> None:
        """Let each of these stores reserve no more than so much (None: without a limit), on top of the bills that are
        settled: what it has in flight is reserved already."""
        reserved = Counter[str]()
        for name, cost in self._flying.values():
            if name in money:
                reserved[name] += cost
        for name, allowed in money.items():
            store = self._store(name)
            store.room = None if allowed is None else allowed - reserved[name]
            self._enter(store)

    def room(self, store: str) -> int | None:
        """What a store's budget leaves when all of its waiting jobs are reserved for; None without a budget."""
        known = self._stores.get(store)
        if known is None or known.room is None:
            return None
        return known.room - known.waiting * known.estimate(self._default_cost)

    def estimate(self, store: str) -> int:
        """What a job of this store will probably cost."""
        return (
            self._stores[store].estimate(self._default_cost)
            if store in self._stores
            else self._default_cost
        )

    def adopt(self, job: JobId, store: str, reserved: int) -> None:
        """Take up a job that is in flight already, with what was reserved for it."""
        self.withdraw(job)
        self._store(store).in_flight += 1
        self._store(store).reserve(reserved)
        self._flying[job] = (store, reserved)
        self._enter(self._store(store))

    def take_up(self, waiting: WaitingJob, now: float) -> None:
        """Take up a job that waited before: it has its place, so its store is not lifted, and stands in no line yet."""
        if self._note(waiting, now):
            heappush(self._store(waiting.store).queue, waiting)

    def resume(self) -> None:
        """Begin after a takeover. A lift that a crash kept from being saved must not become credit: nobody who waits
        stands further behind the furthest than what it may have in flight is worth."""
        waiting = [store for store in self._stores.values() if store.queue]
        everybody = waiting or list(self._stores.values())
        self._last_position = max((store.account.position for store in everybody), default=0.0)
        furthest: dict[str, float] = {}
        worth: dict[str, float] = {}
        for store in everybody:
            name = store.account.name
            furthest[name] = max(furthest.get(name, 0.0), store.position)
            worth[name] = worth.get(name, 0.0) + (self._cap_worth(store) if store.queue else 0.0)
        for store in waiting:
            account = store.account
            store.raise_to(furthest[account.name] - self._cap_worth(store) / store.weight)
            store.raise_account_to(self._last_position - worth[account.name] / account.weight)
            account.last_position = furthest[account.name]
            self._changed.add(store.name)
            self._enter(store)

    def add(self, waiting: WaitingJob, now: float) -> None:
        """Queue a job. One that waits or flies already is left as it is."""
        if self._note(waiting, now):
            self._arrive(waiting)

    def withdraw(self, job: JobId) -> None:
        """Forget a waiting job (cancelled). Its place in the queue is skipped when it surfaces."""
        waiting = self._waiting.pop(job, None)
        if waiting is not None:
            store = self._store(waiting.store)
            store.waiting -= 1
            self._trim(store)

    def pick(self, now: float) -> PickedJob | None:
        """The next job, now in flight and charged its estimate; None when nothing may go."""
        self._wake(now)
        store = self._first(CapClass.WITHIN)
        if store is None and not self._hard_cap:
            store = self._first(CapClass.BEYOND)  # nobody else has work: a store may borrow
        if store is None:
            return None
        waiting = store.queue[0]
        del self._waiting[waiting.job]
        reserved = waiting.estimate or store.estimate(self._default_cost)
        self._last_position, store.account.last_position = store.account.position, store.position
        store.reserve(reserved)
        store.waiting -= 1
        store.in_flight += 1
        self._flying[waiting.job] = (store.name, reserved)
        self._trim(store)
        return PickedJob(
            job=waiting.job,
            store=store.name,
            reserved=reserved,
            account=store.account.name,
            account_weight=store.account.weight,
            due_at=max(waiting.created_at, waiting.not_before),
        )

    def settle(self, job: JobId, store_name: str, spent: int, *, ended: bool) -> None:
        """The bill of a job: what it really cost replaces what was reserved (nothing, when it was not in flight)."""
        store = self._store(store_name)
        _, reserved = self._flying.get(job, (store_name, 0))
        if self._flying.pop(job, None) is not None:
            store.in_flight -= 1
        store.bill(spent, reserved, ended=ended)
        self._changed.add(store_name)
        self._enter(store)

    def take_changes(self) -> list[CounterChange]:
        """What changed in the counters since the last call (settled bills and lifts, not open reservations)."""
        changes = [self._stores[name].take_change() for name in sorted(self._changed)]
        self._changed.clear()
        return [change for change in changes if change is not None]

    def next_due(self, now: float) -> float | None:
        """When the first job that is not due yet will be."""
        self._wake(now)
        return self._delayed[0][0] if self._delayed else None

    def waiting_of(self, store: str) -> int:
        """How many of a store's jobs wait, those that are not due yet included."""
        return self._stores[store].waiting if store in self._stores else 0

    def flying(self) -> dict[JobId, tuple[str, int]]:
        """Jobs in flight: their store and what is reserved for them."""
        return dict(self._flying)

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    def due(self, now: float) -> tuple[int, float | None]:
        """How many waiting jobs could go, and since when the one that has waited longest could.

        O(jobs): for a report, not for a decision.
        """
        held = {store.name for store in self._stores.values() if store.held}
        since = [
            max(job.created_at, job.not_before)
            for job in self._waiting.values()
            if job.not_before <= now and job.store not in held
        ]
        return len(since), min(since, default=None)

    def queues(self, also: Container[str] = ()) -> list[tuple[str, int, int, int, float]]:
        """(store, waiting, in flight, served, weight) of every store with work, and of those in `also`."""
        return [
            (store.name, store.waiting, store.in_flight, store.served, store.weight)
            for store in self._stores.values()
            if store.waiting or store.in_flight or store.name in also
        ]

    def standings(self, now: float) -> list[QueueState]:
        """Every store with work that is due, as the outlook wants it."""
        self._wake(now)
        return [self._standing(store) for store in self._stores.values() if store.queue]

    def _standing(self, store: StoreQueue) -> QueueState:
        estimate = store.estimate(self._default_cost)
        going = rules.count_fitting(len(store.queue), store.room, estimate)
        return QueueState(
            store=store.name,
            account=store.account.name,
            position=store.position,
            weight=store.weight,
            account_position=store.account.position,
            account_weight=store.account.weight,
            queued=going,
            held=len(store.queue) - going,
            estimate=estimate,
            at_cap=store.in_flight >= self._cap,
            in_flight=store.in_flight,
        )

    def _account(self, name: str) -> AccountState:
        return self._accounts.setdefault(name, AccountState(name=name))

    def _store(self, name: str) -> StoreQueue:
        if name not in self._stores:
            self._stores[name] = StoreQueue(name=name, account=self._account(name))
        return self._stores[name]

    def _cap_worth(self, store: StoreQueue) -> float:
        """What the jobs cost that a store may have in flight."""
        return self._cap * store.estimate(self._default_cost)

    def _note(self, waiting: WaitingJob, now: float) -> bool:
        """Enter a job in the books; whether it belongs in its store's queue now: not known before, and due."""
        if waiting.job in self._waiting or waiting.job in self._flying:
            return False
        self._waiting[waiting.job] = waiting
        self._store(waiting.store).waiting += 1
        if waiting.not_before > now:
            heappush(self._delayed, (waiting.not_before, waiting))
            return False
        return True

    def _arrive(self, waiting: WaitingJob) -> None:
        store = self._store(waiting.store)
        if store.queue:  # it stands in line already
            heappush(store.queue, waiting)
            if store.room is not None:
                self._enter(store)  # another job may be its next now
            return
        self._lift(store)
        store.queue.append(waiting)
        self._enter(store)

    def _lift(self, store: StoreQueue) -> None:
        """A store joins those of its account that have work waiting, and an account with no other such store joins
        the accounts: neither brings credit from the time before."""
        account = store.account
        if account.line.front() is None:
            store.raise_account_to(self._line.least(default=self._last_position))
        store.raise_to(account.line.least(default=account.last_position))
        self._changed.add(store.name)

    def _trim(self, store: StoreQueue) -> None:
        """Drop jobs that no longer wait from the front of a store's queue, then give the store its place anew."""
        while store.queue and self._waiting.get(store.queue[0].job) is not store.queue[0]:
            heappop(store.queue)
        self._enter(store)

    def _enter(self, store: StoreQueue) -> None:
        """Give a store, and its account, the place that its queue, counter, budget and jobs in flight call for."""
        if store.room is not None or store.held:
            self._hold(store)
        lane = CapClass.WITHIN if store.in_flight < self._cap else CapClass.BEYOND
        store.account.line.place(store, lane if store.queue and not store.held else None)
        self._line.place(store.account, store.account.line.front())

    def _hold(self, store: StoreQueue) -> None:
        """Judge whether its budget has room for its next job. Who was held brings no credit from that time."""
        was_held, store.held = (
            store.held,
            not rules.fits_budget(store.room, store.next_cost(self._default_cost)),
        )
        if was_held and not store.held and store.queue:
            self._lift(store)

    def _first(self, lane: CapClass) -> StoreQueue | None:
        account = self._line.first(lane)
        return account.line.first(lane) if account is not None else None

    def _wake(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            waiting = heappop(self._delayed)[1]
            if self._waiting.get(waiting.job) is waiting:
                self._arrive(waiting)
