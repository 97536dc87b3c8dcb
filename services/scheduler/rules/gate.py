"""The doors of the queues: closed when too many jobs wait, open again when enough of them have gone.

Ingest turns clients away at a closed door; whatever came through before is admitted all the same. A door opens at
four fifths of its limit, not just below it: a door that swings with every job would tell clients nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import exp

ALL = "*"
"""The door of the whole system."""

_REOPEN_AT = 0.8
_UNKNOWN_S = 30.0
"""What to tell a client while nothing drains, so that nothing can be foretold."""
_SHORTEST_S, _LONGEST_S = 1.0, 300.0
_WORTH_SAYING = 1.5
"""A new estimate is said when it is so many times shorter or longer than the one that was said."""
_FORGOTTEN = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What is to be said of a store's door. `retry_after_s` is when, by all that is known, it opens again."""

    store: str
    closed: bool
    retry_after_s: float = 0.0


class Gates:
    """Which doors are closed, and what was said of them."""

    def __init__(self, *, per_store: int, total: int) -> None:
        self._per_store = per_store
        self._total = total
        self._said: dict[str, float] = {}

    @property
    def closed(self) -> frozenset[str]:
        return frozenset(self._said)

    def recall(self, store: str, retry_after_s: float) -> None:
        """A predecessor closed this door: it stays closed until its queue is short enough."""
        self._said[store] = retry_after_s

    def judge(
        self, grown: Iterable[str], *, waiting: Callable[[str], int], total: int, rate: Callable[[str], float]
    ) -> list[Door]:
        """What to say now. `grown` are the stores whose queues may have grown; the closed ones are looked at anyway."""
        stores = sorted({*grown, *self._said} - {ALL})
        doors = [self._judge(store, waiting(store), self._per_store, rate(store)) for store in stores]
        doors.append(self._judge(ALL, total, self._total, rate(ALL)))
        return [door for door in doors if door is not None]

    def _judge(self, store: str, waiting: int, limit: int, rate: float) -> Door | None:
        said = self._said.get(store)
        reopen = min(int(limit * _REOPEN_AT), limit - 1)
        if said is None and waiting < limit:
            return None
        if said is not None and waiting <= reopen:
            del self._said[store]
            return Door(store=store, closed=False)
        retry = _retry_after(waiting - reopen, rate)
        if said is not None and said / _WORTH_SAYING < retry < said * _WORTH_SAYING:
            return None
        self._said[store] = retry
        return Door(store=store, closed=True, retry_after_s=retry)


class Drain:
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
            self._left[name] = (self._faded(name, now) + amount, now, self._left.get(name, (0, now, now))[2])

    def rate(self, store: str, now: float) -> float:
        if store not in self._left:
            return 0.0
        watched_s = max(now - self._left[store][2], 1.0)
        return self._faded(store, now) / (self._over_s * (1 - exp(-watched_s / self._over_s)))

    def forget(self, now: float) -> None:
        """Drop stores of which nothing has left for long."""
        self._left = {name: entry for name, entry in self._left.items() if self._faded(name, now) > _FORGOTTEN}

    def _faded(self, store: str, now: float) -> float:
        count, at, _ = self._left.get(store, (0.0, now, now))
        return count * exp((at - now) / self._over_s)


def _retry_after(too_many: int, rate: float) -> float:
    if rate <= 0:
        return _UNKNOWN_S
    return min(max(too_many / rate, _SHORTEST_S), _LONGEST_S)
