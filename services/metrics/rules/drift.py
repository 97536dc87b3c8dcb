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

from shared.job import ENDED

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
    suspected: Mapping[tuple[int, str], int]
    """What lay outside this time, by hour and name."""


def hours_to_compare(oldest_event: float | None, now: float) -> range:
    """Hours from the epoch: of the last day, those of which no event was deleted (`oldest_event` is the time of the
    first record of the partitions that have lost some, None when none has)."""
    last = int(now // 3600)
    first = last - HOURS + 1
    if oldest_event is not None:
        first = max(first, int(oldest_event // 3600) + 1)
    return range(first, last + 1)


def compare(
    before: Cohorts, truth: Cohorts, after: Cohorts, hours: range, at: datetime, previous: Drift | None
) -> Drift:
    suspected = {
        (hour, name): off
        for hour in hours
        for name in _NAMES
        if (off := _off(*(_number(cohorts.get(str(hour), {}), name) for cohorts in (before, truth, after))))
    }
    again = previous.suspected if previous is not None else {}
    lasting = [(name, min(off, again[hour, name])) for (hour, name), off in suspected.items() if (hour, name) in again]
    return Drift(
        at=at, hours=len(hours), suspected=suspected,
        jobs=sum(off for name, off in lasting if name != COST),
        cost_nanousd=sum(off for name, off in lasting if name == COST),
    )  # fmt: skip


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
    return max(min(before, after) - truth, truth - max(before, after), 0)
