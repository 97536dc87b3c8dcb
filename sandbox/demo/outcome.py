"""Summarizes the jobs of a run by store. Pure."""

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


def summarize_by_store(requested: dict[str, int], rows: Iterable[JobRow]) -> list[StoreOutcome]:
    """Return one outcome per store, the largest first.

    `requested` counts the 201 answers, so it includes jobs without a row.
    """
    grouped: dict[str, list[JobRow]] = defaultdict(list)
    for row in rows:
        grouped[row.store].append(row)
    outcomes = [_store_outcome(store, count, grouped[store]) for store, count in requested.items()]
    return sorted(outcomes, key=lambda outcome: (-outcome.requested, outcome.store))


def _store_outcome(store: str, requested: int, rows: Sequence[JobRow]) -> StoreOutcome:
    waits = sorted(row.wait_s for row in rows if row.wait_s is not None)
    done = sum(row.status is Status.DONE for row in rows)
    return StoreOutcome(
        store=store,
        requested=requested,
        done=done,
        failed=sum(row.status in ENDED for row in rows) - done,
        wait_p50_s=percentile(waits, 50),
        wait_p95_s=percentile(waits, 95),
        tokens=sum(row.tokens for row in rows),
        cost_usd=sum(row.cost_nanousd for row in rows) / 1e9,
    )


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return the nearest-rank percentile of ascending values; `None` without values."""
    if not ordered:
        return None
    rank = -(-percent * len(ordered) // 100)  # the ceiling, in integers
    return ordered[max(rank, 1) - 1]
