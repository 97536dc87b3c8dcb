"""The last hour minute by minute, for the charts of a dashboard that has just been opened."""

from datetime import UTC, datetime
from typing import Any

from services.metrics.counting.rules.aggregate import Aggregate
from shared.domain.job import Status

MINUTES = 60


def last_hour(total: Aggregate, now: datetime) -> dict[str, Any]:
    """Return the jobs done, failed and pending in each of the last minutes, oldest first.

    The aggregate keeps the growth of the queue in each minute. The pending jobs of a minute follow
    from those of now, backwards.
    """
    current = int(now.timestamp() // 60)
    minutes = range(current - MINUTES, current)
    ended = [total["minutes"].get(str(minute), (0, 0)) for minute in minutes]
    return {
        "from": datetime.fromtimestamp(60 * minutes.start, UTC),
        "stepSeconds": 60,
        "done": [one[0] for one in ended],
        "failed": [one[1] for one in ended],
        "pending": _pending(total, minutes),
    }


def _pending(total: Aggregate, minutes: range) -> list[int]:
    pending, found = total["counts"].get(Status.PENDING.value, 0), []
    for minute in reversed(minutes):
        pending -= total["queued"].get(str(minute + 1), 0)
        # Negative only where aggregates of an older version lack the growth.
        found.append(max(pending, 0))
    return found[::-1]
