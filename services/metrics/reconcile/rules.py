"""Compares what was counted with what PostgreSQL says, without calling drift what only has not arrived yet.

Jobs are compared by the hour in which they were asked for. PostgreSQL is asked between two looks at our own numbers,
the second a while later: its number must lie between those two, for events follow rows. What lies outside may still be
an event that is very late, so it counts only when the next comparison finds it outside again. Hours that began before
the oldest event that Kafka still has are left out: of their jobs, events may have been deleted before they were read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.domain.job import ENDED

Cohorts = Mapping[str, Mapping[str, int]]
"""{hour of the request, from the epoch: {status: jobs, "cost": billionths of a US dollar}}."""

HOURS = 24
LIVE = "live"
COST = "cost"
_NAMES = (*(status.value for status in sorted(ENDED)), LIVE, COST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far the numbers differed in the last two comparisons: jobs and money, 0 unless events were lost."""

    at: datetime
    hours: int
    """Hours of requests that were compared."""
    jobs: int
    cost_nanousd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    drift: Drift | None
    """None of the first: one alone cannot tell drift from delay."""
    suspected: Mapping[tuple[int, str], int]
    """By how much our numbers lay outside, by hour and name: above 0 we count too many, below too few."""


def hours_to_compare(oldest_event: float | None, now: float) -> range:
    """Hours from the epoch: of the last day, those of which no event was deleted (`oldest_event` is the time of the
    first record of the partitions that have lost some, None when none has)."""
    last = int(now // 3600)
    first = last - HOURS + 1
    if oldest_event is not None:
        first = max(first, int(oldest_event // 3600) + 1)
    return range(first, last + 1)


def compare(
    before: Cohorts,
    truth: Cohorts,
    after: Cohorts,
    hours: range,
    at: datetime,
    previous: Comparison | None,
) -> Comparison:
    suspected = {
        (hour, name): off
        for hour in hours
        for name in _NAMES
        if (
            off := _off(
                *(_number(cohorts.get(str(hour), {}), name) for cohorts in (before, truth, after))
            )
        )
    }
    if previous is None:
        return Comparison(drift=None, suspected=suspected)
    lasting = {key: _lasting(off, previous.suspected.get(key, 0)) for key, off in suspected.items()}
    drift = Drift(
        at=at,
        hours=len(hours),
        jobs=sum(_jobs(lasting, hour) for hour in hours),
        cost_nanousd=sum(abs(off) for (_, name), off in lasting.items() if name == COST),
    )
    return Comparison(drift=drift, suspected=suspected)


def cohorts_of_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Rows of (hour, status, jobs, cost_nanousd) as cohorts."""
    cohorts: dict[str, dict[str, int]] = {}
    for row in rows:
        cohort = cohorts.setdefault(str(row["hour"]), {COST: 0})
        cohort[row["status"]] = row["jobs"]
        cohort[COST] += row["cost_nanousd"]
    return cohorts


def _number(cohort: Mapping[str, int], name: str) -> int:
    """Waiting and running jobs are compared together: that a job was claimed is told once, and may get lost."""
    if name == LIVE:
        return cohort.get("PENDING", 0) + cohort.get("PROCESSING", 0)
    return cohort.get(name, 0)


def _off(before: int, truth: int, after: int) -> int:
    low, high = sorted((before, after))
    return max(low - truth, 0) or min(high - truth, 0)


def _lasting(off: int, earlier: int) -> int:
    """What lay outside both times, on the same side."""
    return min(off, earlier, key=abs) if off * earlier > 0 else 0


def _jobs(lasting: Mapping[tuple[int, str], int], hour: int) -> int:
    """How many jobs of an hour are counted wrongly: one may be missing where it is, and stand where it is no more."""
    offs = [lasting.get((hour, name), 0) for name in _NAMES if name != COST]
    return max(sum(off for off in offs if off > 0), -sum(off for off in offs if off < 0))
