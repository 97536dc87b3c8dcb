"""How fair it was: numbers over what was served, by store or account, each divided by its weight. Pure."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean


def jain_index(parts: Collection[float]) -> float:
    """Jain's index: 1 when all parts are equal, 1/n when one has everything. 1 for nobody."""
    squares = sum(part * part for part in parts)
    return sum(parts) ** 2 / (len(parts) * squares) if squares else 1.0


def largest_gap(parts: Collection[float]) -> float:
    """The difference between who got most and who got least."""
    return max(parts, default=0.0) - min(parts, default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessStats:
    """How one window went."""

    began_at: float
    seconds: float
    contenders: int
    """Accounts that had work waiting all the time: between them, money per weight should be equal."""
    jain: float
    largest_gap: float
    """Nano-USD per weight between the contender that got most and the one that got least."""
    light_stores: int
    """Stores that were served and had work waiting less than half of the time."""
    light_slowdown: float | None
    """Their mean time to a post, wait included, ÷ the same without the wait, as if each were alone."""


class FairnessMonitor:
    """Watches the order for windows of `seconds`. Looked at about once a second; `last` is the last whole window."""

    def __init__(self, *, seconds: float, now: float) -> None:
        self.last: FairnessStats | None = None
        self.mean_run_s: float | None = None
        """How long a job takes once it was forwarded, by the last whole window; None before one has ended."""
        self._seconds = seconds
        self._contenders: frozenset[str] | None = None
        """None before the window's first look."""
        self._begin(now)

    def served(self, store: str, account: str, *, money_per_weight: float, wait_s: float) -> None:
        """A job was forwarded, after this wait."""
        self._money[account] += money_per_weight
        self._waits[store].append(wait_s)

    def ended(self, run_s: float) -> None:
        """A job has ended, so long after it was forwarded."""
        self._runs += 1
        self._run_s += run_s

    def look(self, waiting: Mapping[str, Collection[str]], now: float) -> None:
        """`waiting` are the stores with work that is due, by account."""
        self._looks += 1
        accounts = frozenset(waiting)
        self._contenders = accounts if self._contenders is None else self._contenders & accounts
        self._backlogged.update(store for stores in waiting.values() for store in stores)
        if self._runs and (self.mean_run_s is None or now - self._began_at >= self._seconds):
            self.mean_run_s = self._run_s / self._runs
        if now - self._began_at >= self._seconds:
            self.last = self._judge(now)
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._began_at = now
        self._looks = self._runs = 0
        self._run_s = 0.0
        self._contenders = None
        self._backlogged: Counter[str] = Counter()
        self._money: defaultdict[str, float] = defaultdict(float)
        self._waits: defaultdict[str, list[float]] = defaultdict(list)

    def _judge(self, now: float) -> FairnessStats:
        parts = [self._money[account] for account in self._contenders or ()]
        light = [
            waits
            for store, waits in self._waits.items()
            if 2 * self._backlogged[store] < self._looks
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
