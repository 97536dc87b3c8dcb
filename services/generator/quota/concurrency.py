"""Adaptive concurrency: how many jobs a worker holds so that its permits are always used.

A job that waits in a permit queue has left the fair queue too early. By Little's law, a queue that
moves `rate` jobs a second and makes each wait `QUEUE_S` seconds holds `rate * QUEUE_S` jobs. The
worker therefore accepts as many jobs as its permits start within that time, and all its slots while
permits are not scarce. Nothing is learned by trial: the token buckets tell the rate.
"""

from collections.abc import Iterable
from math import ceil, inf, sqrt
from typing import NamedTuple

QUEUE_S = 2.0
"""Long enough to use every permit between two reports of the worker, and no longer."""
_SPREAD = 2.0
"""Standard deviations of the number of arrivals."""


class PermitSupply(NamedTuple):
    """What one provider account offers to jobs without a permit."""

    jobs: float
    """The jobs that its permits start within the time."""
    waiting: int
    """The jobs in its permit queue without a permit."""
    jobs_per_s: float = 0.0
    """The jobs that it starts a second for as long as there are any."""
    lowest_waiting_rank: float = inf
    """The smallest rank of the waiting jobs: the next permit goes to it."""


def add_lead(supply: PermitSupply, lead_s: float) -> PermitSupply:
    """Count the jobs that come to the permit queue only after a lead time.

    The lead times differ, so as many jobs more as the arrivals vary keep the queue from running
    empty (square-root staffing). None of them counts as waiting: all have begun.
    """
    spread = _SPREAD * sqrt(supply.jobs_per_s * lead_s)
    return supply._replace(jobs=supply.jobs + spread, waiting=0)


def count_accepted_jobs(*, held: int, unqueued: int, supplies: Iterable[PermitSupply]) -> int:
    """Return how many jobs the worker should hold: those it holds, and those that start soon.

    `unqueued` of the held jobs have no permit and wait in no permit queue yet. Jobs in a queue that
    is longer than its account starts soon take no place from jobs for other accounts. At least one
    job waits, so that no permit is lost.
    """
    supplies = list(supplies)
    places = ceil(sum(max(supply.jobs - supply.waiting, 0.0) for supply in supplies))
    waiting = unqueued + sum(supply.waiting for supply in supplies)
    return held + max(places - unqueued, 1 - waiting, 0)


def count_overtaking_slots(*, held: int, unqueued: int, supplies: Iterable[PermitSupply]) -> int:
    """Return how many jobs the worker may hold if the next one overtakes all that wait.

    Those take no place then. But not more than twice as many as usual may wait.
    """
    supplies = list(supplies)
    places = max(ceil(sum(supply.jobs for supply in supplies)), 1)
    waiting = unqueued + sum(supply.waiting for supply in supplies)
    return held + max(min(places, 2 * places - waiting), 0)
