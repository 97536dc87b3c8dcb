"""Admission control: which stores' intake is closed, by queue length and by budget.

Ingest refuses requests while a store's intake, or the whole system's, is closed. Requests accepted
before are still admitted. A closed intake opens when the queue is down to four fifths of its limit,
not just below the limit; otherwise the state would change with every job.

A store's intake is also closed while its budget has no room for one more job. This reason takes
precedence over a full queue because it lasts longer.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import exp

from shared.domain.stores import ALL_STORES

QUEUE_FULL = "queue-full"
BUDGET_EXCEEDED = "budget-exceeded"

_REOPEN_AT = 0.8
_UNKNOWN_RETRY_S = 30.0
"""Retry-After while no job leaves the queue, so no estimate is possible."""
_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 300.0
_RELEVANT_FACTOR = 1.5
"""A new Retry-After is published when it differs by this factor from the published one."""
_NEGLIGIBLE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionDecision:
    """The admission state to publish for a store.

    `retry_after_s` is the estimated time until the intake opens. When the budget keeps it closed,
    `resets_at` (seconds since the epoch) is when the budget resets.
    """

    store: str
    closed: bool
    retry_after_s: float = 0.0
    resets_at: float | None = None

    @property
    def reason(self) -> str:
        return QUEUE_FULL if self.resets_at is None else BUDGET_EXCEEDED


class AdmissionPolicy:
    """Decides admission states and remembers the published ones of closed intakes."""

    def __init__(self, *, per_store: int, total: int) -> None:
        self._per_store = per_store
        self._total = total
        self._published: dict[str, AdmissionDecision] = {}

    @property
    def closed(self) -> frozenset[str]:
        return frozenset(self._published)

    def restore_decision(self, decision: AdmissionDecision) -> None:
        """Restore an intake that a previous leader closed. It stays closed until there is room."""
        self._published[decision.store] = decision

    def decide_changes(
        self,
        changed: Iterable[str],
        *,
        waiting: Callable[[str], int],
        total: int,
        rate: Callable[[str], float],
        stopped_until: Callable[[str], float | None] = lambda _: None,
    ) -> list[AdmissionDecision]:
        """Return the admission states to publish now.

        `changed` are the stores with a changed queue or budget; closed ones are always considered.
        `rate` is the number of jobs that leave a queue per second. `stopped_until` is the reset
        time of a budget without room for one more job.
        """
        stores = sorted({*changed, *self._published} - {ALL_STORES})
        decisions = [
            self._decide_by_budget(store, resets_at)
            if (resets_at := stopped_until(store)) is not None
            else self._decide_by_queue(store, waiting(store), self._per_store, rate)
            for store in stores
        ]
        decisions.append(self._decide_by_queue(ALL_STORES, total, self._total, rate))
        return [decision for decision in decisions if decision is not None]

    def _decide_by_budget(self, store: str, resets_at: float) -> AdmissionDecision | None:
        published = self._published.get(store)
        decision = AdmissionDecision(store=store, closed=True, resets_at=resets_at)
        self._published[store] = decision
        return decision if published != decision else None

    def _decide_by_queue(
        self, store: str, waiting: int, limit: int, rate: Callable[[str], float]
    ) -> AdmissionDecision | None:
        published = self._published.get(store)
        queue_full = published if published is not None and published.resets_at is None else None
        reopen_at = min(int(limit * _REOPEN_AT), limit - 1)
        if waiting < limit if queue_full is None else waiting <= reopen_at:
            if self._published.pop(store, None) is None:
                return None
            return AdmissionDecision(store=store, closed=False)
        retry = _retry_after(waiting - reopen_at, rate(store))
        if queue_full is not None and (
            queue_full.retry_after_s / _RELEVANT_FACTOR
            < retry
            < queue_full.retry_after_s * _RELEVANT_FACTOR
        ):
            return None
        self._published[store] = AdmissionDecision(store=store, closed=True, retry_after_s=retry)
        return self._published[store]


class StoreRates:
    """The amount per second that leaves each store's queue.

    Each rate is an exponentially decaying mean over `over_s` seconds. The caller chooses the
    unit: jobs, or their estimated cost.
    """

    def __init__(self, *, over_s: float = 30.0) -> None:
        self._over_s = over_s
        self._entries: dict[str, tuple[float, float, float]] = {}
        """Store: (decayed amount, time of that amount, time of the first record)."""

    def record_amount(self, store: str, now: float, amount: float = 1.0) -> None:
        """Record an amount that left the store's queue, and so the queue of all stores."""
        for name in {store, ALL_STORES}:
            decayed, at, first_at = self._entries.get(name, (0.0, now, now))
            decayed *= exp((at - now) / self._over_s)
            self._entries[name] = (decayed + amount, now, first_at)

    def per_second(self, store: str, now: float) -> float:
        if store not in self._entries:
            return 0.0
        observed_s = max(now - self._entries[store][2], 1.0)
        return self._decayed(store, now) / (self._over_s * (1 - exp(-observed_s / self._over_s)))

    def forget_idle(self, now: float) -> None:
        """Drop the stores with a negligible rate."""
        self._entries = {
            name: entry
            for name, entry in self._entries.items()
            if self._decayed(name, now) > _NEGLIGIBLE
        }

    def _decayed(self, store: str, now: float) -> float:
        amount, at, _ = self._entries.get(store, (0.0, now, now))
        return amount * exp((at - now) / self._over_s)


def _retry_after(excess_jobs: int, rate: float) -> float:
    if rate <= 0:
        return _UNKNOWN_RETRY_S
    return min(max(excess_jobs / rate, _MIN_RETRY_S), _MAX_RETRY_S)
