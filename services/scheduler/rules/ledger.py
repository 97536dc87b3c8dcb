"""A store's side of the fair order: what it was charged, what its next job will probably cost, and what waits.

All money is in nano-USD. `served` is what its turn is judged by: settled bills, open reservations and lifts.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heappush

Job = Hashable

_MEAN_OVER = 20
"""Bills that the running mean looks back on, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job that waits. Times are seconds since the epoch; `estimate` (nano-USD) beats the store's mean when known."""

    job: Job
    store: str
    created_at: float
    priority: int = 0
    not_before: float = 0.0
    estimate: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterChange:
    """What happened to a store's counter since changes were last taken: to be added to what is saved."""

    store: str
    served: int
    mean_cost: int
    settled_jobs: int


@dataclass(slots=True)
class Ledger:
    """One store's. The order moves it; it knows nothing of other stores."""

    name: str
    weight: float = 1.0
    served: int = 0
    mean_cost: int = 0
    """What its jobs have cost on average of late; 0 until the first bill."""
    settled_jobs: int = 0
    queue: list[tuple[int, float, int, Waiting]] = field(default_factory=list)
    """A heap of the jobs that are due: highest priority first, then the oldest, then as they came."""
    waiting: int = 0
    """Its jobs that wait, those that are not due yet included."""
    in_flight: int = 0
    place: tuple[bool, float] | None = None
    """Where its live entry in the order is: within the cap or beyond, and at which position. None: nowhere."""
    entry: int = 0
    """The number of that entry; older entries are dead."""
    _unsaved_served: int = 0
    _unsaved_jobs: int = 0

    @property
    def position(self) -> float:
        """The store with the least goes first."""
        return self.served / self.weight

    def push(self, waiting: Waiting, number: int) -> None:
        heappush(self.queue, (-waiting.priority, waiting.created_at, number, waiting))

    def estimate(self, default: int) -> int:
        return self.mean_cost or default

    def raise_to(self, position: float) -> None:
        """Lift a store that stands lower: what it did not ask for while it was idle is no credit."""
        lift = int(position * self.weight) - self.served
        if lift > 0:
            self.served += lift
            self._unsaved_served += lift

    def bill(self, spent: int, reserved: int, *, ended: bool) -> None:
        """What a job really cost replaces what was reserved for it."""
        self.served += spent - reserved
        self._unsaved_served += spent
        if ended and spent > 0:
            self.settled_jobs += 1
            self._unsaved_jobs += 1
            self.mean_cost += (spent - self.mean_cost) // min(self.settled_jobs, _MEAN_OVER)

    def take_change(self) -> CounterChange | None:
        """What is to be saved: bills and lifts, not reservations, which the jobs' rows have."""
        if not self._unsaved_served and not self._unsaved_jobs:
            return None
        change = CounterChange(
            store=self.name, served=self._unsaved_served, mean_cost=self.mean_cost, settled_jobs=self._unsaved_jobs
        )
        self._unsaved_served = self._unsaved_jobs = 0
        return change
