"""Why a store's jobs wait, and until about when: the fair order, run ahead as if money flowed continuously.

The order serves whoever stands lowest, so it fills the stores like vessels with one level: a store's head goes when
the level reaches its position. How much money that takes is a sum over all that stand lower, as far as their work
goes; divided by the money that leaves a second, it is a time. The stores of one account are vessels within a vessel.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

FAIR_TURN = "fair turn"
STORE_CAP = "store cap"
ACCOUNT_SHARE = "account share"
BUDGET = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """A store with work that is due. Money in nano-USD; positions are money served per weight."""

    store: str
    account: str
    position: float
    """Among the stores of its account."""
    weight: float
    account_position: float
    account_weight: float
    queued: int
    """Jobs that are due, but for those that its budget holds back."""
    estimate: int
    """What each of its jobs will probably cost."""
    at_cap: bool
    """It has as many jobs in flight as it may while others wait."""
    in_flight: int
    held: int = 0
    """Jobs that are due and have no room in its budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEstimate:
    """Seconds from now until a store's first and last waiting job will begin; None when nobody can tell."""

    store: str
    reason: str
    limited_by: str | None
    """What keeps the whole system from starting more jobs now; None when nothing does."""
    queued: int
    ahead: int
    """About how many jobs of others go before its first."""
    first_in_s: float | None
    last_in_s: float | None
    held: int = 0
    """Of its jobs that are due, those behind the `queued` ones: its budget holds them."""


def estimate_start_times(
    standings: Sequence[QueueState],
    *,
    money_per_s: float,
    limited_by: str | None,
    hard_cap: bool = False,
    run_s: float | None = None,
) -> list[WaitEstimate]:
    """An outlook for every store with work waiting. O(n log n) in the stores. `run_s` is how long a job takes."""
    held = [_held(one) for one in standings if not one.queued]
    standings = [one for one in standings if one.queued]
    racing = [one for one in standings if not one.at_cap]
    if (
        not racing and not hard_cap
    ):  # where nobody is within the cap, those beyond it race for what is left over
        racing = list(standings)
    stopped = [one for one in standings if one.at_cap] if len(racing) < len(standings) else []
    accounts = defaultdict[str, list[QueueState]](list)
    for standing in racing:
        accounts[standing.account].append(standing)
    seer = _Seer(list(accounts.values()), money_per_s=money_per_s, limited_by=limited_by)
    found = [seer.outlook(standing, inner) for inner, stores in seer.races() for standing in stores]
    return found + [seer.capped(standing, run_s) for standing in stopped] + held


class _Seer:
    """Looks ahead for the stores of these accounts."""

    def __init__(
        self, accounts: Sequence[Sequence[QueueState]], *, money_per_s: float, limited_by: str | None
    ) -> None:
        self._accounts = accounts
        self._money_per_s = money_per_s
        self._limited_by = limited_by
        racing = [standing for stores in accounts for standing in stores]
        self._mean = sum(map(_cost, racing)) / max(sum(standing.queued for standing in racing), 1)
        self._outer = _Flow(
            (stores[0].account_position, stores[0].account_weight, sum(map(_cost, stores)))
            for stores in accounts
        )

    def races(self) -> Iterator[tuple["_Flow", Sequence[QueueState]]]:
        """Each account's stores, and the flow among them."""
        for stores in self._accounts:
            yield _Flow((one.position, one.weight, _cost(one)) for one in stores), stores

    def outlook(self, one: QueueState, inner: "_Flow") -> WaitEstimate:
        first = self._money_before(one, inner, one.position)
        last = self._money_before(
            one, inner, one.position + (one.queued - 1) * one.estimate / one.weight
        )
        ahead = round(first / self._mean) if self._mean else 0
        if inner.before(one.position) > 0:
            reason = ACCOUNT_SHARE
        else:
            reason = self._limited_by if self._limited_by is not None and not ahead else FAIR_TURN
        return WaitEstimate(
            store=one.store,
            reason=reason,
            limited_by=self._limited_by,
            queued=one.queued,
            ahead=ahead,
            first_in_s=self._seconds(first),
            last_in_s=self._seconds(last),
            held=one.held,
        )

    def capped(self, one: QueueState, run_s: float | None) -> WaitEstimate:
        """It goes on when one of its own jobs has ended: those in flight end evenly spread over the time of one."""
        between = None if run_s is None or not one.in_flight else run_s / one.in_flight
        return WaitEstimate(
            store=one.store,
            reason=STORE_CAP,
            limited_by=self._limited_by,
            queued=one.queued,
            ahead=0,
            first_in_s=between,
            last_in_s=None if between is None else one.queued * between,
            held=one.held,
        )

    def _money_before(self, one: QueueState, inner: "_Flow", position: float) -> float:
        """What is spent, on whomever, before the store stands at this position among its siblings."""
        return self._outer.before(
            one.account_position + inner.before(position) / one.account_weight
        )

    def _seconds(self, money: float) -> float | None:
        return money / self._money_per_s if self._money_per_s > 0 else None


def _held(one: QueueState) -> WaitEstimate:
    """Nothing of it goes before its budget begins anew, is raised, or a job costs less than was reserved for it."""
    return WaitEstimate(
        store=one.store,
        reason=BUDGET,
        limited_by=None,
        queued=0,
        ahead=0,
        first_in_s=None,
        last_in_s=None,
        held=one.held,
    )


def _cost(standing: QueueState) -> float:
    return standing.queued * standing.estimate


class _Flow:
    """How much money flows before the level reaches a position: piecewise linear, rising."""

    def __init__(self, members: Iterable[tuple[float, float, float]]) -> None:
        """`members` as (position, weight, money of all its waiting work)."""
        turns = defaultdict[float, float](float)
        for position, weight, backlog in members:
            turns[position] += weight
            turns[position + backlog / weight] -= weight
        self._positions: list[float] = []
        self._money: list[float] = []
        self._slopes: list[float] = []
        money = slope = 0.0
        for position in sorted(turns):
            if self._positions:
                money += slope * (position - self._positions[-1])
            slope += turns[position]
            self._positions.append(position)
            self._money.append(money)
            self._slopes.append(slope)

    def before(self, position: float) -> float:
        index = bisect_right(self._positions, position) - 1
        if index < 0:
            return 0.0
        return self._money[index] + self._slopes[index] * (position - self._positions[index])
