"""Adaptive concurrency: how many jobs a worker holds so that its permits are always used.

A job that waits in a permit queue has left the fair queue too early. By Little's law, a queue that
moves `rate` jobs a second and makes each wait `QUEUE_S` seconds holds `rate * QUEUE_S` jobs. The
worker therefore accepts as many jobs as its permits start within that time, and all its slots while
permits are not scarce. Nothing is learned by trial: the token buckets tell the rate.
"""

from collections.abc import Iterable
from math import ceil, sqrt
from typing import NamedTuple

QUEUE_S = 2.0
"""Long enough to use every permit between two reports of the worker, and no longer."""
_SPREAD = 2.0
"""Standard deviations of the number of arrivals."""


class PermitSupply(NamedTuple):
    """What one provider account offers to jobs that have not begun."""

    jobs: float
    """The jobs that its permits start within the time."""
    waiting: int
    """The jobs in its permit queue that have not begun."""
    jobs_per_s: float = 0.0
    """The jobs that it starts a second for as long as there are any."""


def add_lead(supply: PermitSupply, lead_s: float) -> PermitSupply:
    """Count the jobs that come to the permit queue only after a lead time.

    The lead times differ, so as many jobs more as the arrivals vary keep the queue from running
    empty (square-root staffing). None of them counts as waiting: all have begun.
    """
    spread = _SPREAD * sqrt(supply.jobs_per_s * lead_s)
    return supply._replace(jobs=supply.jobs + spread, waiting=0)


def count_accepted_jobs(*, held: int, unbegun: int, supplies: Iterable[PermitSupply]) -> int:
    """Return how many jobs the worker should hold: those it holds, and those that start soon.

    `unbegun` of the held jobs have not begun. Those in a queue that is longer than its account
    starts soon take no place from jobs for other accounts. At least one job is always unbegun, so
    that no permit is lost.
    """
    supplies = list(supplies)
    places = ceil(sum(max(supply.jobs - supply.waiting, 0.0) for supply in supplies))
    not_queued = unbegun - sum(supply.waiting for supply in supplies)
    return held + max(places - not_queued, 1 - unbegun, 0)


def count_passing_jobs(*, held: int, unbegun: int, supplies: Iterable[PermitSupply]) -> int:
    """Return how many jobs the worker may hold if the next one passes all that have not begun.

    Those take no place then. But not more than twice as many as usual may be unbegun.
    """
    places = max(ceil(sum(supply.jobs for supply in supplies)), 1)
    return held + max(min(places, 2 * places - unbegun), 0)
