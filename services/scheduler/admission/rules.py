"""The doors of the queues: closed when too many jobs wait, open again when enough of them have gone.

Ingest turns clients away at a closed door; whatever came through before is admitted all the same. A door opens at
four fifths of its limit, not just below it: a door that swings with every job would tell clients nothing.

A store's door is closed as well while its budget has no room for one more job. That is said rather than a full queue:
it lasts longer.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import exp

ALL = "*"
"""The door of the whole system."""
QUEUE_FULL = "queue-full"
BUDGET_EXCEEDED = "budget-exceeded"

_REOPEN_AT = 0.8
_UNKNOWN_S = 30.0
"""What to tell a client while nothing drains, so that nothing can be foretold."""
_SHORTEST_S, _LONGEST_S = 1.0, 300.0
_WORTH_SAYING = 1.5
"""A new estimate is said when it is so many times shorter or longer than the one that was said."""
_FORGOTTEN = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionDecision:
    """What is to be said of a store's door. `retry_after_s` is when, by all that is known, it opens again; where a
    budget keeps it closed, `resets_at` (seconds since the epoch) is when that begins anew."""

    store: str
    closed: bool
    retry_after_s: float = 0.0
    resets_at: float | None = None

    @property
    def reason(self) -> str:
        return QUEUE_FULL if self.resets_at is None else BUDGET_EXCEEDED


class AdmissionPolicy:
    """Which doors are closed, and what was said of them."""

    def __init__(self, *, per_store: int, total: int) -> None:
        self._per_store = per_store
        self._total = total
        self._said: dict[str, AdmissionDecision] = {}

    @property
    def closed(self) -> frozenset[str]:
        return frozenset(self._said)

    def recall(self, door: AdmissionDecision) -> None:
        """A predecessor closed this door: it stays closed until there is room."""
        self._said[door.store] = door

    def judge(
        self,
        grown: Iterable[str],
        *,
        waiting: Callable[[str], int],
        total: int,
        rate: Callable[[str], float],
        stopped_until: Callable[[str], float | None] = lambda _: None,
    ) -> list[AdmissionDecision]:
        """What to say now. `grown` are the stores whose queues or budgets may have changed; the closed ones are looked
        at anyway. `stopped_until` is when the budget begins anew of a store that has no room in it."""
        stores = sorted({*grown, *self._said} - {ALL})
        doors = [
            self._stop(store, resets_at)
            if (resets_at := stopped_until(store)) is not None
            else self._judge(store, waiting(store), self._per_store, rate(store))
            for store in stores
        ]
        doors.append(self._judge(ALL, total, self._total, rate(ALL)))
        return [door for door in doors if door is not None]

    def _stop(self, store: str, resets_at: float) -> AdmissionDecision | None:
        said, door = self._said.get(store), AdmissionDecision(store=store, closed=True, resets_at=resets_at)
        self._said[store] = door
        return door if said != door else None

    def _judge(self, store: str, waiting: int, limit: int, rate: float) -> AdmissionDecision | None:
        said = self._said.get(store)
        for_queue = said if said is not None and said.resets_at is None else None
        reopen = min(int(limit * _REOPEN_AT), limit - 1)
        if waiting < limit if for_queue is None else waiting <= reopen:
            return (
                AdmissionDecision(store=store, closed=False) if self._said.pop(store, None) is not None else None
            )
        retry = _retry_after(waiting - reopen, rate)
        if for_queue is not None and (
            for_queue.retry_after_s / _WORTH_SAYING
            < retry
            < for_queue.retry_after_s * _WORTH_SAYING
        ):
            return None
        self._said[store] = AdmissionDecision(store=store, closed=True, retry_after_s=retry)
        return self._said[store]


class DecayingRate:
    """How much a second leaves each queue: a mean in which the past fades over about `over_s` seconds.

    Jobs, or what they will cost: the unit is the caller's.
    """

    def __init__(self, *, over_s: float = 30.0) -> None:
        self._over_s = over_s
        self._left: dict[str, tuple[float, float, float]] = {}
        """Store: (faded count, when the count was made, when the first of them left)."""

    def left(self, store: str, now: float, amount: float = 1.0) -> None:
        """So much has left a store's queue, and so the queue of all."""
        for name in {store, ALL}:
            self._left[name] = (
                self._faded(name, now) + amount,
                now,
                self._left.get(name, (0, now, now))[2],
            )

    def rate(self, store: str, now: float) -> float:
        if store not in self._left:
            return 0.0
        watched_s = max(now - self._left[store][2], 1.0)
        return self._faded(store, now) / (self._over_s * (1 - exp(-watched_s / self._over_s)))

    def forget(self, now: float) -> None:
        """Drop stores of which nothing has left for long."""
        self._left = {
            name: entry for name, entry in self._left.items() if self._faded(name, now) > _FORGOTTEN
        }

    def _faded(self, store: str, now: float) -> float:
        count, at, _ = self._left.get(store, (0.0, now, now))
        return count * exp((at - now) / self._over_s)


def _retry_after(too_many: int, rate: float) -> float:
    if rate <= 0:
        return _UNKNOWN_S
    return min(max(too_many / rate, _SHORTEST_S), _LONGEST_S)
