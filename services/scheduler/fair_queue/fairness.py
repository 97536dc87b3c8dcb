"""Measures of fairness over the money served to stores or accounts, each divided by its weight."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean


def jain_index(parts: Collection[float]) -> float:
    """Return Jain's fairness index: 1 when all parts are equal, 1/n when one has everything.

    Returns 1 for an empty collection.
    """
    squares = sum(part * part for part in parts)
    return sum(parts) ** 2 / (len(parts) * squares) if squares else 1.0


def largest_gap(parts: Collection[float]) -> float:
    """Return the difference between the largest and the smallest part."""
    return max(parts, default=0.0) - min(parts, default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessStats:
    """The fairness of one window."""

    began_at: float
    seconds: float
    contenders: int
    """Accounts with waiting work throughout the window: their money per weight should be equal."""
    jain: float
    largest_gap: float
    """Nano-USD per weight between the best and the worst served contender."""
    light_stores: int
    """Served stores with waiting work during less than half of the window."""
    light_slowdown: float | None
    """Their mean time to a post, wait included, divided by the mean run time without the wait."""


class FairnessMonitor:
    """Measures fairness in windows of `seconds`. `last_window` is the last complete window."""

    def __init__(self, *, seconds: float, now: float) -> None:
        self.last_window: FairnessStats | None = None
        self.mean_run_s: float | None = None
        """Mean seconds from start to end of a job in the last complete window; `None` at first."""
        self._seconds = seconds
        self._contenders: frozenset[str] | None = None
        """`None` before the first observation of a window."""
        self._begin_window(now)

    def record_dispatch(
        self, store: str, account: str, *, money_per_weight: float, wait_s: float
    ) -> None:
        """Record a dispatched job and the seconds it waited."""
        self._money[account] += money_per_weight
        self._waits[store].append(wait_s)

    def record_run_time(self, run_s: float) -> None:
        """Record the run time of a job that ended."""
        self._runs += 1
        self._run_s += run_s

    def observe_backlog(self, waiting: Mapping[str, Collection[str]], now: float) -> None:
        """Record the stores with due work, by account. Called about once a second."""
        self._observations += 1
        accounts = frozenset(waiting)
        self._contenders = accounts if self._contenders is None else self._contenders & accounts
        self._backlogged.update(store for stores in waiting.values() for store in stores)
        if self._runs and (self.mean_run_s is None or now - self._began_at >= self._seconds):
            self.mean_run_s = self._run_s / self._runs
        if now - self._began_at >= self._seconds:
            self.last_window = self._summarize_window(now)
            self._begin_window(now)

    def _begin_window(self, now: float) -> None:
        self._began_at = now
        self._observations = self._runs = 0
        self._run_s = 0.0
        self._contenders = None
        self._backlogged: Counter[str] = Counter()
        self._money: defaultdict[str, float] = defaultdict(float)
        self._waits: defaultdict[str, list[float]] = defaultdict(list)

    def _summarize_window(self, now: float) -> FairnessStats:
        parts = [self._money[account] for account in self._contenders or ()]
        light = [
            waits
            for store, waits in self._waits.items()
            if 2 * self._backlogged[store] < self._observations
        ]
        slowdown = None
        if light and self._run_s > 0:
            run = self._run_s / self._runs
            slowdown = (fmean(wait for waits in light for wait in waits) + run) / run
        return FairnessStats(
            began_at=self._began_at,
            seconds=now - self._began_at,
            contenders=len(parts),
            jain=jain_index(parts),
            largest_gap=largest_gap(parts),
            light_stores=len(light),
            light_slowdown=slowdown,
        )
