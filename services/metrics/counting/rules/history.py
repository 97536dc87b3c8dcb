"""The last hour by minute: what a chart shows at once to a person who has just opened the page."""

from datetime import UTC, datetime
from typing import Any

from services.metrics.counting.rules.aggregate import Aggregate
from shared.domain.job import Status

MINUTES = 60


def last_hour(total: Aggregate, now: datetime) -> dict[str, Any]:
    """Jobs done and failed in each of the last whole minutes, and those that waited at the end of each, oldest first.

    How many waited is found from how many wait now, back minute by minute: by how much the queue grew is what is kept.
    """
    running = int(now.timestamp() // 60)
    minutes = range(running - MINUTES, running)
    ended = [total["minutes"].get(str(minute), (0, 0)) for minute in minutes]
    return {
        "from": datetime.fromtimestamp(60 * minutes.start, UTC),
        "stepSeconds": 60,
        "done": [one[0] for one in ended],
        "failed": [one[1] for one in ended],
        "pending": _pending(total, minutes),
    }


def _pending(total: Aggregate, minutes: range) -> list[int]:
    waiting, found = total["counts"].get(Status.PENDING.value, 0), []
    for minute in reversed(minutes):
        waiting -= total["queued"].get(str(minute + 1), 0)
        found.append(
            max(waiting, 0)
        )  # below nothing only where the growth of old times was not kept
    return found[::-1]
