"""The state of accounts and stores in the fair queue: money charged and jobs waiting.

All money is in nano-USD. `served` is the numerator of the virtual time: settled costs, open
reservations and advances of the virtual time. Stores compete within their account, and accounts
with each other. A store without an assigned account forms an account of its own.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from services.scheduler.fair_queue.priority_index import PriorityIndex

JobId = Hashable

_MEAN_OVER = 20
"""The running mean covers about this many settled jobs."""


class WaitingJob(NamedTuple):
    """A waiting job. Times are seconds since the epoch.

    `estimate` (nano-USD) takes precedence over the store's mean cost. The class is a tuple because
    a million of them must fit in memory. The order of the fields is the order of a store's jobs.
    """

    rank: int
    """The negative priority: the highest priority goes first."""
    created_at: float
    job: Any
    """A hashable, ordered id. The id breaks ties between jobs of the same moment."""
    store: str
    not_before: float
    estimate: int | None
    needs_images: bool = True

    @classmethod
    def create(
        cls,
        *,
        job: JobId,
        store: str,
        created_at: float,
        priority: int = 0,
        not_before: float = 0.0,
        estimate: int | None = None,
        needs_images: bool = True,
    ) -> "WaitingJob":
        return cls(-priority, created_at, job, store, not_before, estimate, needs_images)


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterChange:
    """The unsaved changes of a store's and its account's counters, to be added when saved."""

    store: str
    served: int
    mean_cost: int
    settled_jobs: int
    account: str
    account_served: int


@dataclass(slots=True, kw_only=True)
class ServiceShare:
    """Money served, divided by weight. The member with the smallest virtual time goes first."""

    weight: float = 1.0
    served: int = 0
    reserved: int = 0
    """The part of `served` that is reserved for jobs in flight."""
    head_start: int = 0
    """Money by which the member started ahead of the others. Its next jobs pay it back."""

    @property
    def virtual_time(self) -> float:
        return self.served / self.weight

    @property
    def permit_rank(self) -> float:
        """The virtual time with the jobs in flight counted once more.

        Of two members at the same virtual time, permits go to the one with fewer jobs in flight.
        """
        return (self.served + self.reserved) / self.weight

    def set_weight(self, weight: float) -> None:
        """Change the weight and keep the virtual time of what is settled.

        The operator's command scales saved counters too. Reservations stay the money that
        settlement takes back.
        """
        factor = weight / self.weight
        self.served = round((self.served - self.reserved) * factor) + self.reserved
        self.head_start = round(self.head_start * factor)
        self.weight = weight

    def advance_to(self, virtual_time: float) -> int:
        """Advance to `virtual_time` if behind: idle time gives no advantage.

        Returns the money added to `served`.
        """
        advance = max(int(virtual_time * self.weight) - self.served, 0)
        self.served += advance
        return advance

    def start_beside(self, first: "ServiceShare") -> int:
        """Start to wait beside others, of which `first` has the smallest virtual time.

        The jobs that `first` has in flight are not served yet. The member catches up with them
        first, and then pays that head start back, as `first` pays its own. Returns the money added,
        as if it were paid back: a failover ends head starts.
        """
        before = self.served + self.head_start
        early = (first.served - first.reserved) / first.weight
        paid_back = (first.served + first.head_start) / first.weight
        self.served = max(before, int(early * self.weight))
        self.head_start = max(int(paid_back * self.weight) - self.served, 0)
        return self.served + self.head_start - before

    def pay_back(self, cost: int) -> None:
        """Charge a job's cost once more while a head start is unpaid."""
        paid = min(self.head_start, cost)
        self.head_start -= paid
        self.served += paid


@dataclass(slots=True, kw_only=True)
class AccountState(ServiceShare):
    """The share and the virtual time of one account."""

    name: str
    stores: "PriorityIndex[StoreQueue]" = field(default_factory=PriorityIndex)
    """The account's stores with waiting work."""
    text_stores: "PriorityIndex[StoreQueue]" = field(default_factory=PriorityIndex)
    """Those of them with a due job that needs no image."""
    last_virtual_time: float = 0.0
    """Virtual time of the store picked last.

    A store that joins while no sibling waits starts here.
    """


@dataclass(slots=True, kw_only=True)
class StoreQueue(ServiceShare):
    """One store's waiting jobs and counters.

    `FairQueue` updates it; it does not know other stores.
    """

    name: str
    account: AccountState
    mean_cost: int = 0
    """The recent mean cost of the store's jobs; 0 until the first job settles."""
    settled_jobs: int = 0
    image_queue: list[WaitingJob] = field(default_factory=list)
    """A heap of the due jobs that need an image: highest priority first, then the oldest."""
    text_queue: list[WaitingJob] = field(default_factory=list)
    """A heap of the due jobs that need none, in the same order."""
    waiting: int = 0
    """The number of waiting jobs, including those not due yet."""
    in_flight: int = 0
    budget_remaining: int | None = None
    """Money the store may still reserve; `None` without a budget."""
    held: bool = False
    """The next job exceeds the budget, so the store is not eligible until the budget has room."""
    _unsaved_served: int = 0
    _unsaved_account: int = 0
    _unsaved_jobs: int = 0

    def estimate_cost(self, default: int) -> int:
        return self.mean_cost or default

    @property
    def due(self) -> int:
        """The number of due jobs, including cancelled ones that have not surfaced."""
        return len(self.image_queue) + len(self.text_queue)

    def queue_of(self, job: WaitingJob) -> list[WaitingJob]:
        return self.image_queue if job.needs_images else self.text_queue

    def next_job(self, *, images: bool = True) -> WaitingJob | None:
        """Return the next due job; without `images` the next one that needs no image."""
        if not images or not self.image_queue:
            return self.text_queue[0] if self.text_queue else None
        first = self.image_queue[0]
        return min(first, self.text_queue[0]) if self.text_queue else first

    def next_job_cost(self, default: int) -> int:
        """Return the amount to reserve for the next job."""
        job = self.next_job()
        return (job.estimate if job is not None else None) or self.estimate_cost(default)

    def reserve(self, cost: int) -> None:
        """Charge a job's estimated cost. The counters do not save it: the job's row holds it."""
        self._charge(cost)
        self.reserved += cost
        self.account.reserved += cost

    def pay_back_head_starts(self, cost: int) -> None:
        """Let a picked job pay back the head starts of the store and its account."""
        self.pay_back(cost)
        self.account.pay_back(cost)

    def _charge(self, cost: int) -> None:
        self.served += cost
        if self.budget_remaining is not None:
            self.budget_remaining -= cost
        self.account.served += cost

    def settle_cost(self, spent: int, reserved: int, *, ended: bool) -> None:
        """Replace a job's reservation with its real cost."""
        self._charge(spent - reserved)
        self.reserved -= reserved
        self.account.reserved -= reserved
        self._unsaved_served += spent
        self._unsaved_account += spent
        if ended and spent > 0:
            self.settled_jobs += 1
            self._unsaved_jobs += 1
            self.mean_cost += (spent - self.mean_cost) // min(self.settled_jobs, _MEAN_OVER)

    def advance_virtual_time(self, virtual_time: float) -> None:
        """Advance the store to `virtual_time` if it is behind."""
        self._unsaved_served += self.advance_to(virtual_time)

    def set_virtual_time(self, virtual_time: float) -> None:
        change = int(virtual_time * self.weight) - self.served
        self.served += change
        self._unsaved_served += change

    def advance_account_virtual_time(self, virtual_time: float) -> None:
        """Advance the store's account among the accounts."""
        self._unsaved_account += self.account.advance_to(virtual_time)

    def start_beside_store(self, first: "StoreQueue") -> None:
        """Start to wait beside the other stores of the account."""
        self._unsaved_served += self.start_beside(first)

    def start_account_beside(self, first: AccountState) -> None:
        """Let the store's account start to wait beside other accounts."""
        self._unsaved_account += self.account.start_beside(first)

    def take_counter_change(self) -> CounterChange | None:
        """Return the unsaved settled costs and advances, and mark them saved.

        Reservations are not included: the jobs' rows hold them.
        """
        if not self._unsaved_served and not self._unsaved_jobs and not self._unsaved_account:
            return None
        change = CounterChange(
            store=self.name,
            served=self._unsaved_served,
            mean_cost=self.mean_cost,
            settled_jobs=self._unsaved_jobs,
            account=self.account.name,
            account_served=self._unsaved_account,
        )
        self._unsaved_served = self._unsaved_account = self._unsaved_jobs = 0
        return change
