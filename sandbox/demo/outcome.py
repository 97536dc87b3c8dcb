"""What became of a run's jobs, by store: pure sums over rows."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.domain.job import ENDED, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    id: str
    store: str
    status: Status
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    tokens: int
    cost_nanousd: int
    error: str | None

    @property
    def wait_s(self) -> float | None:
        return (self.started_at - self.created_at).total_seconds() if self.started_at else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOutcome:
    store: str
    requested: int
    done: int
    failed: int
    wait_p50_s: float | None
    wait_p95_s: float | None
    tokens: int
    cost_usd: float


def summarize_by_store(asked: dict[str, int], rows: Iterable[JobRow]) -> list[StoreOutcome]:
    """One outcome a store, the largest first. `requested` counts the 201s, so a job without a row still counts."""
    grouped: dict[str, list[JobRow]] = defaultdict(list)
    for row in rows:
        grouped[row.store].append(row)
    outcomes = [_outcome(store, count, grouped[store]) for store, count in asked.items()]
    return sorted(outcomes, key=lambda outcome: (-outcome.requested, outcome.store))


def _outcome(store: str, asked: int, rows: Sequence[JobRow]) -> StoreOutcome:
    waits = sorted(row.wait_s for row in rows if row.wait_s is not None)
    done = sum(row.status is Status.DONE for row in rows)
    return StoreOutcome(
        store=store,
        requested=asked,
        done=done,
        failed=sum(row.status in ENDED for row in rows) - done,
        wait_p50_s=percentile(waits, 50),
        wait_p95_s=percentile(waits, 95),
        tokens=sum(row.tokens for row in rows),
        cost_usd=sum(row.cost_nanousd for row in rows) / 1e9,
    )


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile of values in ascending order; None of nothing."""
    if not ordered:
        return None
    rank = -(-percent * len(ordered) // 100)  # the ceiling, in whole numbers
    return ordered[max(rank, 1) - 1]
