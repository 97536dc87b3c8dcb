"""Compares the counted jobs with PostgreSQL, and tells drift from delay.

Jobs are compared by the hour of their request. PostgreSQL is queried between two readings of the
counters, the second one a few seconds later. Events follow rows, so PostgreSQL's number must lie
between the two readings. A deviation may still be a very late event, so it counts only when the
next comparison finds it again. Hours that began before the oldest event in Kafka are left out,
because events of their jobs may have been deleted before metrics read them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.domain.job import ENDED

Cohorts = Mapping[str, Mapping[str, int]]
"""{hours from the epoch to the request: {status: jobs, "cost": billionths of a US dollar}}."""

HOURS = 24
LIVE = "live"
COST = "cost"
_NAMES = (*(status.value for status in sorted(ENDED)), LIVE, COST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The difference that the last two comparisons both found; 0 unless events were lost."""

    at: datetime
    hours: int
    """Hours of requests that were compared."""
    jobs: int
    cost_nanousd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    drift: Drift | None
    """`None` for the first comparison: a single one cannot tell drift from delay."""
    deviations: Mapping[tuple[int, str], int]
    """By hour and name: above 0 when too many are counted, below 0 when too few."""


def hours_to_compare(oldest_event: float | None, now: float) -> range:
    """Return the hours from the epoch, within the last day, of which Kafka has deleted no event.

    `oldest_event` is the time of the first record in the partitions that have lost records; `None`
    if none has.
    """
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
    """Compare PostgreSQL's cohorts (`truth`) with the counted ones before and after the query."""
    deviations = {
        (hour, name): deviation
        for hour in hours
        for name in _NAMES
        if (
            deviation := _deviation(
                *(_number(cohorts.get(str(hour), {}), name) for cohorts in (before, truth, after))
            )
        )
    }
    if previous is None:
        return Comparison(drift=None, deviations=deviations)
    persistent = {
        key: _persistent(deviation, previous.deviations.get(key, 0))
        for key, deviation in deviations.items()
    }
    drift = Drift(
        at=at,
        hours=len(hours),
        jobs=sum(_wrong_jobs(persistent, hour) for hour in hours),
        cost_nanousd=sum(abs(cost) for (_, name), cost in persistent.items() if name == COST),
    )
    return Comparison(drift=drift, deviations=deviations)


def cohorts_of_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Convert rows of (hour, status, jobs, cost_nanousd) to cohorts."""
    cohorts: dict[str, dict[str, int]] = {}
    for row in rows:
        cohort = cohorts.setdefault(str(row["hour"]), {COST: 0})
        cohort[row["status"]] = row["jobs"]
        cohort[COST] += row["cost_nanousd"]
    return cohorts


def _number(cohort: Mapping[str, int], name: str) -> int:
    """Return a cohort's number.

    Waiting and running jobs count together, because a claim's event may get lost.
    """
    if name == LIVE:
        return cohort.get("PENDING", 0) + cohort.get("PROCESSING", 0)
    return cohort.get(name, 0)


def _deviation(before: int, truth: int, after: int) -> int:
    low, high = sorted((before, after))
    return max(low - truth, 0) or min(high - truth, 0)


def _persistent(deviation: int, earlier: int) -> int:
    """Return the part of a deviation that both comparisons found, on the same side."""
    return min(deviation, earlier, key=abs) if deviation * earlier > 0 else 0


def _wrong_jobs(persistent: Mapping[tuple[int, str], int], hour: int) -> int:
    """Return the number of wrongly counted jobs of an hour.

    One job may be missing in one status and extra in another.
    """
    values = [persistent.get((hour, name), 0) for name in _NAMES if name != COST]
    return max(
        sum(value for value in values if value > 0), -sum(value for value in values if value < 0)
    )
