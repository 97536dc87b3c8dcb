"""What the fair order keeps of accounts and of their stores: what each was charged, and what waits.

All money is in nano-USD. `served` is what a turn is judged by: settled bills, open reservations and lifts. A store
takes its turn among the stores of its account, the account among all accounts; a store without an account of its
own choosing is an account by itself.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from services.scheduler.fair_queue.priority_index import PriorityIndex

JobId = Hashable

_MEAN_OVER = 20
"""Bills that the running mean looks back on, about."""


class WaitingJob(NamedTuple):
    """A job that waits. Times are seconds since the epoch; `estimate` (nano-USD) beats the store's mean when known.

    A tuple, for a million of them must fit: the fields stand in the order in which a store's jobs go.
    """

    rank: int
    """Its priority, negative: the highest goes first."""
    created_at: float
    job: Any
    """Hashable, and ordered: ids decide between jobs of the same moment."""
    store: str
    not_before: float
    estimate: int | None

    @classmethod
    def of(
        cls,
        *,
        job: JobId,
        store: str,
        created_at: float,
        priority: int = 0,
        not_before: float = 0.0,
        estimate: int | None = None,
    ) -> "WaitingJob":
        return cls(-priority, created_at, job, store, not_before, estimate)


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterChange:
    """What happened to a store's counter since changes were last taken, and to its account's through it: to be added
    to what is saved."""

    store: str
    served: int
    mean_cost: int
    settled_jobs: int
    account: str
    account_served: int


@dataclass(slots=True)
class AccountState:
    """Who shares: one store, or several that belong together."""

    name: str
    weight: float = 1.0
    served: int = 0
    line: "Line[Ledger]" = field(default_factory=PriorityIndex)
    """Its stores with work waiting."""
    last_position: float = 0.0
    """Where its store stood that was picked last: the place of a newcomer when no other of its stores waits."""

    @property
    def position(self) -> float:
        """The account with the least goes first."""
        return self.served / self.weight

    def reweigh(self, weight: float) -> None:
        """Weigh so much from now on, at the same place. Whoever sets a weight scales what is saved as well."""
        self.weight, self.served = weight, round(self.position * weight)

    def raise_to(self, position: float) -> int:
        """Lift an account that stands lower: what it did not ask for while it was idle is no credit. By how much."""
        lift = max(int(position * self.weight) - self.served, 0)
        self.served += lift
        return lift


@dataclass(slots=True)
class StoreQueue:
    """One store's. The order moves it; it knows nothing of other stores."""

    name: str
    account: AccountState
    weight: float = 1.0
    served: int = 0
    mean_cost: int = 0
    """What its jobs have cost on average of late; 0 until the first bill."""
    settled_jobs: int = 0
    queue: list[WaitingJob] = field(default_factory=list)
    """A heap of the jobs that are due: highest priority first, then the oldest."""
    waiting: int = 0
    """Its jobs that wait, those that are not due yet included."""
    in_flight: int = 0
    room: int | None = None
    """What its budget leaves to be reserved; None: it has no budget."""
    held: bool = False
    """Its next job does not fit: it stands in no line until there is room."""
    _unsaved_served: int = 0
    _unsaved_account: int = 0
    _unsaved_jobs: int = 0

    @property
    def position(self) -> float:
        """Among the stores of one account, the one with the least goes first."""
        return self.served / self.weight

    def reweigh(self, weight: float) -> None:
        """Weigh so much from now on, at the same place. Whoever sets a weight scales what is saved as well."""
        self.weight, self.served = weight, round(self.position * weight)

    def estimate(self, default: int) -> int:
        return self.mean_cost or default

    def next_cost(self, default: int) -> int:
        """What is to be reserved for its next job."""
        return (self.queue[0].estimate if self.queue else None) or self.estimate(default)

    def reserve(self, cost: int) -> None:
        """Charge what a job will probably cost. Not to be saved: the job's row has it."""
        self.served += cost
        if self.room is not None:
            self.room -= cost
        self.account.served += cost

    def bill(self, spent: int, reserved: int, *, ended: bool) -> None:
        """What a job really cost replaces what was reserved for it."""
        self.reserve(spent - reserved)
        self._unsaved_served += spent
        self._unsaved_account += spent
        if ended and spent > 0:
            self.settled_jobs += 1
            self._unsaved_jobs += 1
            self.mean_cost += (spent - self.mean_cost) // min(self.settled_jobs, _MEAN_OVER)

    def raise_to(self, position: float) -> None:
        """Lift a store that stands lower among the stores of its account."""
        self.move_to(max(position, self.position))

    def move_to(self, position: float) -> None:
        move = int(position * self.weight) - self.served
        self.served += move
        self._unsaved_served += move

    def raise_account_to(self, position: float) -> None:
        """Lift its account among the accounts."""
        self._unsaved_account += self.account.raise_to(position)

    def take_change(self) -> CounterChange | None:
        """What is to be saved: bills and lifts, not reservations, which the jobs' rows have."""
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
