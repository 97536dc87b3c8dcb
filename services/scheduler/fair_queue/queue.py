"""The fair queue: weighted fair queueing by money, per account and per store.

The next job belongs to the account with the smallest virtual time (money served divided by weight)
among the accounts with an eligible store. A store is eligible while it has due work and fewer than
`cap` jobs in flight. Within the account the same rule selects the store. Dispatch charges an
estimate at once and settlement corrects it, so no store runs ahead while its costs are unknown. A
store that returns from idle starts at the smallest virtual time among its waiting siblings: idle
time gives no advantage. The sibling's jobs in flight are not served yet, so the returning store has
as many in flight first: a head start, which it pays back.

A store with a budget also reserves from the budget. While its next job exceeds the budget, the
store is held. When the budget has room again, the store starts where its siblings are.

Each store keeps the jobs that need an image apart from those that need none. So while no worker
takes image jobs, `pick_next` finds the next job without one at the same cost. An outage of the
images (`hold_image_jobs`) gives no advantage either: when it ends, the stores that have only image
jobs start where the others are. While image slots are merely taken, such stores keep their turn.

Every operation is O(log n) in the accounts and stores with waiting work.

A failover restores the queue: `restore_store` for the counters, then `restore_in_flight` and
`restore_pending` in any order (neither advances a virtual time), then `finish_restore`.
"""

from collections import Counter
from collections.abc import Container, Mapping
from heapq import heappop, heappush
from typing import NamedTuple

from services.scheduler.budgets import rules
from services.scheduler.estimates.rules import QueueState
from services.scheduler.fair_queue.accounts import (
    AccountState,
    CounterChange,
    JobId,
    StoreQueue,
    WaitingJob,
)
from services.scheduler.fair_queue.priority_index import CapClass, PriorityIndex

__all__ = ["CounterChange", "FairQueue", "JobId", "PickedJob", "StoreSummary", "WaitingJob"]


class PickedJob(NamedTuple):
    job: JobId
    store: str
    reserved: int
    """Nano-USD charged to the store until settlement."""
    account: str
    account_weight: float
    due_at: float
    """When the job could first start: its creation, or its `not_before` if later."""
    needs_images: bool = True
    virtual_time: float = 0.0
    """Of the account, before this job was charged."""
    permit_rank: float = 0.0
    """Jobs with a smaller one get their permits first."""


class StoreSummary(NamedTuple):
    store: str
    waiting: int
    in_flight: int
    served: int
    weight: float


class FairQueue:
    """The waiting and in-flight jobs of all stores.

    `cap` is the most jobs of one store in flight while other stores wait. With `hard_cap` the cap
    holds even when no other store waits.
    """

    def __init__(self, *, cap: int, default_cost: int, hard_cap: bool = False) -> None:
        self._cap = cap
        self._hard_cap = hard_cap
        self._default_cost = default_cost
        self._stores: dict[str, StoreQueue] = {}
        self._waiting: dict[JobId, WaitingJob] = {}
        self._in_flight: dict[JobId, tuple[str, int]] = {}
        self._delayed: list[tuple[float, WaitingJob]] = []
        self._accounts: dict[str, AccountState] = {}
        self._accounts_index: PriorityIndex[AccountState] = PriorityIndex()
        """The accounts with waiting work."""
        self._text_accounts_index: PriorityIndex[AccountState] = PriorityIndex()
        """Those of them with a due job that needs no image."""
        self._images_held = False
        self._picked_while_held = False
        self._last_virtual_time = 0.0
        """Virtual time of the account picked last.

        An account that joins an empty index starts here.
        """
        self._changed: set[str] = set()
        """Stores with counters that may have changed since `take_counter_changes`."""

    def restore_account(self, account: str, *, weight: float, served: int) -> None:
        """Restore an account's saved counter. Call it before restoring the account's stores."""
        state = self._accounts.setdefault(account, AccountState(name=account))
        state.weight, state.served = weight, served

    def restore_store(
        self,
        store: str,
        *,
        weight: float,
        served: int,
        mean_cost: int,
        settled_jobs: int,
        account: str | None = None,
    ) -> None:
        """Restore a store's saved counter. Call it before adding any of the store's jobs.

        Without `account` the store forms an account of its own with the same weight. An account
        without a saved counter starts with what its first restored store was served.
        """
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

    def configure_store(
        self, store_name: str, *, account: str | None, weight: float, account_weight: float = 1.0
    ) -> None:
        """Set a store's account (`None`: its own) and weight from now on, at the same virtual time.

        The cost reserved for jobs in flight moves to the new account. Money served before stays
        with the old account: in the new one the store starts where its siblings are.
        """
        store = self._store(store_name)
        old, new = store.account, self._account(account or store_name)
        store.set_weight(weight)
        new.set_weight(account_weight if account else weight)
        if new is not old:
            self._remove_from_index(store)
            reserved_in_flight = sum(
                reserved for name, reserved in self._in_flight.values() if name == store_name
            )
            old.served -= reserved_in_flight
            old.reserved -= reserved_in_flight
            new.served += reserved_in_flight
            new.reserved += reserved_in_flight
            store.account = new
            self._update_account_index(old)
            store.set_virtual_time(_first_virtual_time(new.stores, new.last_virtual_time))
            if store.due:
                self._advance_virtual_time(store)
        self._changed.add(store_name)
        self._update_index(store)

    def set_budgets(self, reservable: Mapping[str, int | None]) -> None:
        """Limit the money that each store may reserve beyond settled costs (`None`: no limit).

        The reservations of jobs in flight count against it.
        """
        reserved = Counter[str]()
        for name, cost in self._in_flight.values():
            if name in reservable:
                reserved[name] += cost
        for name, limit in reservable.items():
            store = self._store(name)
            store.budget_remaining = None if limit is None else limit - reserved[name]
            self._update_index(store)

    def budget_headroom(self, store: str) -> int | None:
        """Return the budget left after reserving for all waiting jobs; `None` without a budget."""
        queue = self._stores.get(store)
        if queue is None or queue.budget_remaining is None:
            return None
        return queue.budget_remaining - queue.waiting * queue.estimate_cost(self._default_cost)

    def estimate_cost(self, store: str) -> int:
        """Return the estimated cost of one job of the store."""
        if store not in self._stores:
            return self._default_cost
        return self._stores[store].estimate_cost(self._default_cost)

    def restore_in_flight(self, job: JobId, store: str, reserved: int) -> None:
        """Restore a job in flight with its reservation."""
        self.remove_pending(job)
        self._store(store).in_flight += 1
        self._store(store).reserve(reserved)
        self._in_flight[job] = (store, reserved)
        self._update_index(self._store(store))

    def restore_pending(self, job: WaitingJob, now: float) -> None:
        """Restore a waiting job. It neither advances its store nor enters the index yet."""
        if self._register(job, now):
            heappush(self._store(job.store).queue_of(job), job)

    def finish_restore(self) -> None:
        """Index the restored stores and limit the advantage of stores that are far behind.

        A crash may lose an advance of a virtual time, which must not become an advantage: after
        a restore no waiting store is further behind the furthest one than the cost of its cap.
        """
        waiting = [store for store in self._stores.values() if store.due]
        considered = waiting or list(self._stores.values())
        self._last_virtual_time = max(
            (store.account.virtual_time for store in considered), default=0.0
        )
        furthest: dict[str, float] = {}
        cap_costs: dict[str, float] = {}
        for store in considered:
            name = store.account.name
            furthest[name] = max(furthest.get(name, 0.0), store.virtual_time)
            cap_costs[name] = cap_costs.get(name, 0.0) + (
                self._cap_cost(store) if store.due else 0.0
            )
        for store in waiting:
            account = store.account
            store.advance_virtual_time(
                furthest[account.name] - self._cap_cost(store) / store.weight
            )
            store.advance_account_virtual_time(
                self._last_virtual_time - cap_costs[account.name] / account.weight
            )
            account.last_virtual_time = furthest[account.name]
            self._changed.add(store.name)
            self._update_index(store)

    def enqueue(self, job: WaitingJob, now: float) -> None:
        """Queue a job. A job that already waits or is in flight stays unchanged."""
        if self._register(job, now):
            self._enqueue_due(job)

    def remove_pending(self, job: JobId) -> None:
        """Remove a waiting job. Its heap entry is skipped when it surfaces."""
        waiting = self._waiting.pop(job, None)
        if waiting is not None:
            store = self._store(waiting.store)
            store.waiting -= 1
            self._trim(store)

    def hold_image_jobs(self, held: bool) -> None:
        """Record whether the images are unavailable.

        At the end of an outage, the stores that have only image jobs start where those are that
        were served meanwhile. O(stores), once for each outage.
        """
        if self._images_held and not held and self._picked_while_held:
            for store in self._stores.values():
                if store.image_queue and not store.text_queue and not store.held:
                    self._advance_virtual_time(store)
                    self._update_index(store)
        if not held:
            self._picked_while_held = False
        self._images_held = held

    def peek_next(self, now: float, *, images: bool = True) -> PickedJob | None:
        """Return the job that `pick_next` would pick, and change nothing."""
        self._enqueue_delayed(now)
        store = self._next_store(images=images)
        waiting = store.next_job(images=images) if store is not None else None
        if store is None or waiting is None:
            return None
        return PickedJob(
            job=waiting.job,
            store=store.name,
            reserved=waiting.estimate or store.estimate_cost(self._default_cost),
            account=store.account.name,
            account_weight=store.account.weight,
            due_at=max(waiting.created_at, waiting.not_before),
            needs_images=waiting.needs_images,
            virtual_time=store.account.virtual_time,
            permit_rank=store.account.permit_rank,
        )

    def pick_next(self, now: float, *, images: bool = True) -> PickedJob | None:
        """Put the next eligible job in flight, charge its estimate and return it, if any.

        Without `images` only jobs that need no image are eligible.
        """
        pick = self.peek_next(now, images=images)
        if pick is None:
            return None
        store = self._stores[pick.store]
        self._picked_while_held |= not images
        del self._waiting[pick.job]
        self._last_virtual_time = pick.virtual_time
        store.account.last_virtual_time = store.virtual_time
        store.reserve(pick.reserved)
        store.pay_back_head_starts(pick.reserved)
        store.waiting -= 1
        store.in_flight += 1
        self._in_flight[pick.job] = (store.name, pick.reserved)
        self._trim(store)
        return pick

    def settle_job(self, job: JobId, store_name: str, spent: int, *, ended: bool) -> None:
        """Replace a job's reservation (0 when the job is not in flight) with its real cost."""
        store = self._store(store_name)
        dispatched = self._in_flight.pop(job, None)
        reserved = 0
        if dispatched is not None:
            store.in_flight -= 1
            reserved = dispatched[1]
        store.settle_cost(spent, reserved, ended=ended)
        self._changed.add(store_name)
        self._update_index(store)

    def take_counter_changes(self) -> list[CounterChange]:
        """Return the counter changes since the last call, without reservations."""
        changes = [self._stores[name].take_counter_change() for name in sorted(self._changed)]
        self._changed.clear()
        return [change for change in changes if change is not None]

    def next_due_at(self, now: float) -> float | None:
        """Return the time at which the next delayed job becomes due."""
        self._enqueue_delayed(now)
        return self._delayed[0][0] if self._delayed else None

    def count_waiting(self, store: str) -> int:
        """Count a store's waiting jobs, including those not due yet."""
        return self._stores[store].waiting if store in self._stores else 0

    def in_flight_jobs(self) -> dict[JobId, tuple[str, int]]:
        """Return the jobs in flight with their stores and reservations."""
        return dict(self._in_flight)

    @property
    def pending(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def summarize_due_jobs(self, now: float) -> tuple[int, float | None]:
        """Return the number of due jobs and since when the oldest of them is due.

        Stores held by their budget do not count. O(jobs): for reports, not for decisions.
        """
        held = {store.name for store in self._stores.values() if store.held}
        due_since = [
            max(job.created_at, job.not_before)
            for job in self._waiting.values()
            if job.not_before <= now and job.store not in held
        ]
        return len(due_since), min(due_since, default=None)

    def summarize_stores(self, include: Container[str] = ()) -> list[StoreSummary]:
        """Summarize every store with work, and the stores in `include`."""
        return [
            StoreSummary(store.name, store.waiting, store.in_flight, store.served, store.weight)
            for store in self._stores.values()
            if store.waiting or store.in_flight or store.name in include
        ]

    def queue_states(self, now: float) -> list[QueueState]:
        """Return every store with due work, as input for the wait estimates."""
        self._enqueue_delayed(now)
        return [self._queue_state(store) for store in self._stores.values() if store.due]

    def _queue_state(self, store: StoreQueue) -> QueueState:
        estimate = store.estimate_cost(self._default_cost)
        affordable = rules.count_affordable(store.due, store.budget_remaining, estimate)
        return QueueState(
            store=store.name,
            account=store.account.name,
            virtual_time=store.virtual_time,
            weight=store.weight,
            account_virtual_time=store.account.virtual_time,
            account_weight=store.account.weight,
            queued=affordable,
            held=store.due - affordable,
            estimate=estimate,
            at_cap=store.in_flight >= self._cap,
            in_flight=store.in_flight,
            images_held=self._images_held and not store.text_queue,
            only_images=not store.text_queue,
        )

    def _account(self, name: str) -> AccountState:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = AccountState(name=name)
        return account

    def _store(self, name: str) -> StoreQueue:
        store = self._stores.get(name)
        if store is None:
            store = self._stores[name] = StoreQueue(name=name, account=self._account(name))
        return store

    def _cap_cost(self, store: StoreQueue) -> float:
        """Return the estimated cost of as many jobs as the cap allows in flight."""
        return self._cap * store.estimate_cost(self._default_cost)

    def _register(self, job: WaitingJob, now: float) -> bool:
        """Register a new job.

        Return whether it is new and due, so belongs in its store's queue now.
        """
        if job.job in self._waiting or job.job in self._in_flight:
            return False
        self._waiting[job.job] = job
        self._store(job.store).waiting += 1
        if job.not_before > now:
            heappush(self._delayed, (job.not_before, job))
            return False
        return True

    def _enqueue_due(self, job: WaitingJob) -> None:
        store = self._store(job.store)
        queue = store.queue_of(job)
        passed_over = self._images_held and not job.needs_images and not queue
        if not store.due or passed_over:
            self._advance_virtual_time(store)
        heappush(queue, job)
        # Otherwise the store is indexed already, and its next job's cost has not changed.
        if len(queue) == 1 or store.budget_remaining is not None:
            self._update_index(store)

    def _advance_virtual_time(self, store: StoreQueue) -> None:
        """Advance a store that starts to wait, and its account if the account does too.

        Neither keeps an advantage from its idle time. During an outage of the images only the jobs
        without one compete.
        """
        account = store.account
        accounts, stores = (
            (self._text_accounts_index, account.text_stores)
            if self._images_held
            else (self._accounts_index, account.stores)
        )
        if stores.first_class() is None:
            if (first_account := accounts.first_member()) is not None:
                store.start_account_beside(first_account)
            else:
                store.advance_account_virtual_time(self._last_virtual_time)
        if (first_store := stores.first_member()) is not None:
            store.start_beside_store(first_store)
        else:
            store.advance_virtual_time(account.last_virtual_time)
        self._changed.add(store.name)

    def _trim(self, store: StoreQueue) -> None:
        """Drop removed jobs from the fronts of a store's queues, then update the index."""
        for queue in (store.image_queue, store.text_queue):
            while queue and self._waiting.get(queue[0].job) is not queue[0]:
                heappop(queue)
        self._update_index(store)

    def _remove_from_index(self, store: StoreQueue) -> None:
        account = store.account
        account.stores.update(store, None)
        account.text_stores.update(store, None)
        self._update_account_index(account)

    def _update_account_index(self, account: AccountState) -> None:
        self._accounts_index.update(account, account.stores.first_class())
        self._text_accounts_index.update(account, account.text_stores.first_class())

    def _update_index(self, store: StoreQueue) -> None:
        """Index a store and its account by queue, virtual time, budget and jobs in flight."""
        if store.budget_remaining is not None or store.held:
            self._update_hold(store)
        account = store.account
        cap_class = CapClass.BELOW_CAP if store.in_flight < self._cap else CapClass.AT_CAP
        is_eligible = (store.image_queue or store.text_queue) and not store.held
        account.stores.update(store, cap_class if is_eligible else None)
        self._accounts_index.update(account, account.stores.first_class())
        if store.text_queue or store in account.text_stores:
            eligible = store.text_queue and not store.held
            account.text_stores.update(store, cap_class if eligible else None)
            self._text_accounts_index.update(account, account.text_stores.first_class())

    def _update_hold(self, store: StoreQueue) -> None:
        """Hold the store or release it, by its budget.

        A released store keeps no advantage from the hold.
        """
        was_held = store.held
        store.held = not rules.fits_budget(
            store.budget_remaining, store.next_job_cost(self._default_cost)
        )
        if was_held and not store.held and store.due:
            self._advance_virtual_time(store)

    def _next_store(self, *, images: bool) -> StoreQueue | None:
        """Return the store that goes next: one below its cap, if there is any."""
        store = self._first_store(CapClass.BELOW_CAP, images=images)
        if store is None and not self._hard_cap:
            store = self._first_store(CapClass.AT_CAP, images=images)
        return store

    def _first_store(self, cap_class: CapClass, *, images: bool) -> StoreQueue | None:
        index = self._accounts_index if images else self._text_accounts_index
        account = index.first(cap_class)
        if account is None:
            return None
        return (account.stores if images else account.text_stores).first(cap_class)

    def _enqueue_delayed(self, now: float) -> None:
        """Queue the delayed jobs that are due by now."""
        while self._delayed and self._delayed[0][0] <= now:
            waiting = heappop(self._delayed)[1]
            if self._waiting.get(waiting.job) is waiting:
                self._enqueue_due(waiting)


def _first_virtual_time(index: PriorityIndex[StoreQueue], default: float) -> float:
    first = index.first_member()
    return first.virtual_time if first is not None else default
