"""Wait estimates: why a store's jobs wait and until about when.

The estimate runs the fair queue ahead as a fluid model, as if money flowed continuously. The queue
serves the smallest virtual time first, so it raises all stores to one common level. A store's first
job starts when the level reaches the store's virtual time. The money spent until then is a sum over
all stores below that level, limited by their waiting work. Divided by the money spent per second,
the sum becomes a time. The stores of one account form a fluid model within the accounts' model.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from shared.domain.reasons import WaitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """A store with due work. Money is in nano-USD; virtual times are money per weight."""

    store: str
    account: str
    virtual_time: float
    """The virtual time among the account's stores."""
    weight: float
    account_virtual_time: float
    account_weight: float
    queued: int
    """Due jobs within the budget."""
    estimate: int
    """The estimated cost of each job."""
    at_cap: bool
    """The store has as many jobs in flight as it may have while others wait."""
    in_flight: int
    held: int = 0
    """Due jobs beyond the budget."""
    images_held: bool = False
    """Every due job needs an image, and the images are unavailable."""
    only_images: bool = False
    """Every due job needs an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEstimate:
    """Seconds until a store's first and last waiting job start; `None` when unknown."""

    store: str
    reason: str
    limited_by: str | None
    """The limit that keeps the whole system from starting more jobs now, if any."""
    queued: int
    ahead: int
    """The approximate number of other stores' jobs before this store's first job."""
    first_in_s: float | None
    last_in_s: float | None
    held: int = 0
    """Due jobs behind the `queued` ones that the budget holds."""


def estimate_start_times(
    states: Sequence[QueueState],
    *,
    money_per_s: float,
    jobs_per_s: float | None = None,
    limited_by: str | None,
    images_limited_by: str | None = None,
    hard_cap: bool = False,
    run_s: float | None = None,
) -> list[WaitEstimate]:
    """Estimate the wait of every store with waiting work. O(n log n) in the stores.

    `money_per_s` is the recent spend of dispatched jobs. `jobs_per_s` is more exact while permits
    limit the dispatch. `images_limited_by` is the limit for jobs that need an image. `run_s` is the
    mean run time of a job in seconds.
    """
    outage = images_limited_by or WaitReason.UNAVAILABLE
    held = [
        _held_estimate(state, WaitReason.BUDGET)
        if not state.queued
        else _outage_estimate(state, outage)
        for state in states
        if not state.queued or state.images_held
    ]
    states = [state for state in states if state.queued and not state.images_held]
    competing = [state for state in states if not state.at_cap]
    if not competing and not hard_cap:
        competing = list(states)  # every store is at its cap: they share the remaining slots
    capped = [state for state in states if state.at_cap] if len(competing) < len(states) else []
    accounts = defaultdict[str, list[QueueState]](list)
    for state in competing:
        accounts[state.account].append(state)
    model = _FluidModel(
        list(accounts.values()),
        money_per_s=money_per_s,
        jobs_per_s=jobs_per_s,
        limited_by=limited_by,
        images_limited_by=images_limited_by,
    )
    return [
        *model.estimate_competing(),
        *(_capped_estimate(state, limited_by, run_s) for state in capped),
        *held,
    ]


class _FluidModel:
    """Estimates start times for the stores of these accounts."""

    def __init__(
        self,
        accounts: Sequence[Sequence[QueueState]],
        *,
        money_per_s: float,
        jobs_per_s: float | None,
        limited_by: str | None,
        images_limited_by: str | None,
    ) -> None:
        self._accounts = accounts
        self._images_limited_by = images_limited_by
        self._limited_by = limited_by
        states = [state for stores in accounts for state in stores]
        self._mean_cost = sum(map(_queued_cost, states)) / max(
            sum(state.queued for state in states), 1
        )
        self._money_per_s = money_per_s if jobs_per_s is None else jobs_per_s * self._mean_cost
        self._accounts_curve = _SpendCurve(
            (
                stores[0].account_virtual_time,
                stores[0].account_weight,
                sum(map(_queued_cost, stores)),
            )
            for stores in accounts
        )

    def estimate_competing(self) -> Iterator[WaitEstimate]:
        """Estimate the waits of all stores that compete for slots."""
        for stores in self._accounts:
            siblings = _SpendCurve(
                (state.virtual_time, state.weight, _queued_cost(state)) for state in stores
            )
            for state in stores:
                yield self._estimate(state, siblings)

    def _estimate(self, state: QueueState, siblings: "_SpendCurve") -> WaitEstimate:
        first = self._money_before(state, siblings, state.virtual_time)
        last_virtual_time = state.virtual_time + (state.queued - 1) * state.estimate / state.weight
        last = self._money_before(state, siblings, last_virtual_time)
        ahead = round(first / self._mean_cost) if self._mean_cost else 0
        limited_by = (state.only_images and self._images_limited_by) or self._limited_by
        if siblings.money_before(state.virtual_time) > 0:
            reason: str = WaitReason.ACCOUNT_SHARE
        else:
            reason = limited_by if limited_by is not None and not ahead else WaitReason.FAIR_TURN
        return WaitEstimate(
            store=state.store,
            reason=reason,
            limited_by=limited_by,
            queued=state.queued,
            ahead=ahead,
            first_in_s=self._seconds(first),
            last_in_s=self._seconds(last),
            held=state.held,
        )

    def _money_before(
        self, state: QueueState, siblings: "_SpendCurve", virtual_time: float
    ) -> float:
        """Return the total money spent before the store reaches a virtual time."""
        return self._accounts_curve.money_before(
            state.account_virtual_time + siblings.money_before(virtual_time) / state.account_weight
        )

    def _seconds(self, money: float) -> float | None:
        return money / self._money_per_s if self._money_per_s > 0 else None


def _capped_estimate(
    state: QueueState, limited_by: str | None, run_s: float | None
) -> WaitEstimate:
    """Estimate the wait at the cap: the jobs in flight end evenly spread over `run_s`."""
    interval = None if run_s is None or not state.in_flight else run_s / state.in_flight
    return WaitEstimate(
        store=state.store,
        reason=WaitReason.STORE_CAP,
        limited_by=limited_by,
        queued=state.queued,
        ahead=0,
        first_in_s=interval,
        last_in_s=None if interval is None else state.queued * interval,
        held=state.held,
    )


def _outage_estimate(state: QueueState, reason: str) -> WaitEstimate:
    """Return the estimate of a store whose jobs wait for the image provider."""
    return replace(_held_estimate(state, reason), queued=state.queued)


def _held_estimate(state: QueueState, reason: str) -> WaitEstimate:
    """Return the estimate of a store whose next job starts at an unknown time."""
    return WaitEstimate(
        store=state.store,
        reason=reason,
        limited_by=None,
        queued=0,
        ahead=0,
        first_in_s=None,
        last_in_s=None,
        held=state.held,
    )


def _queued_cost(state: QueueState) -> float:
    return state.queued * state.estimate


class _SpendCurve:
    """Money spent before the level reaches a virtual time: piecewise linear, increasing."""

    def __init__(self, members: Iterable[tuple[float, float, float]]) -> None:
        """`members` are (virtual time, weight, cost of all waiting work)."""
        slope_changes = defaultdict[float, float](float)
        for virtual_time, weight, backlog in members:
            slope_changes[virtual_time] += weight
            slope_changes[virtual_time + backlog / weight] -= weight
        self._virtual_times: list[float] = []
        self._money: list[float] = []
        self._slopes: list[float] = []
        money = slope = 0.0
        for virtual_time in sorted(slope_changes):
            if self._virtual_times:
                money += slope * (virtual_time - self._virtual_times[-1])
            slope += slope_changes[virtual_time]
            self._virtual_times.append(virtual_time)
            self._money.append(money)
            self._slopes.append(slope)

    def money_before(self, virtual_time: float) -> float:
        index = bisect_right(self._virtual_times, virtual_time) - 1
        if index < 0:
            return 0.0
        return self._money[index] + self._slopes[index] * (
            virtual_time - self._virtual_times[index]
        )
