"""Remembers which jobs' calls a provider served, to tell one job's trouble from the provider's."""

from collections import OrderedDict
from math import inf
from uuid import UUID

_MAX_UNEXPLAINED = 10_000
_JOBS_KEPT = 4
_MANY = 3
"""Other jobs that must be served before a lost answer is one job's own trouble."""


class ServedCalls:
    """The last served calls of one provider account, by kind of call (such as a step's name).

    Times are of a monotonic clock in seconds.
    """

    def __init__(self) -> None:
        self._served: dict[str, OrderedDict[UUID, float]] = {}
        self._lost: dict[str, tuple[UUID, float]] = {}
        self._lost_by: OrderedDict[tuple[str, UUID], float] = OrderedDict()
        self._unexplained: OrderedDict[tuple[str, UUID], float] = OrderedDict()

    def record_served(self, call: str, job: UUID, now: float) -> None:
        """Record a served call. The last four jobs are kept, so three of them are others."""
        served = self._served.setdefault(call, OrderedDict[UUID, float]())
        served[job] = now
        served.move_to_end(job)
        if len(served) > _JOBS_KEPT:
            served.popitem(last=False)
        self._unexplained.pop((call, job), None)
        self._lost_by.pop((call, job), None)

    def record_lost(self, call: str, job: UUID, now: float) -> None:
        """Record a call without an answer."""
        self._lost[call] = (job, now)
        self._lost_by[call, job] = now
        if len(self._lost_by) > _MAX_UNEXPLAINED:
            self._lost_by.popitem(last=False)

    def is_isolated(self, call: str, job: UUID, since: float) -> bool:
        """Return whether only this job's call was lost since `since`, and many others served.

        If this job's former call was lost as well, the time since then counts.
        """
        since = min(since, self._lost_by.get((call, job), since))
        lost_by, lost_at = self._lost.get(call, (job, -inf))
        return not (lost_by != job and lost_at > since) and self.many_served_since(call, job, since)

    def many_served_since(self, call: str, job: UUID, since: float) -> bool:
        """Return whether calls of this kind of three other jobs were served after `since`."""
        served = self._served.get(call, OrderedDict[UUID, float]())
        return sum(at > since for other, at in served.items() if other != job) >= _MANY

    def others_served_since(self, call: str, job: UUID, since: float) -> bool:
        """Return whether another job's call of this kind was served after `since`."""
        served = self._served.get(call, OrderedDict[UUID, float]())
        return any(at > since for other, at in served.items() if other != job)

    def first_unexplained_at(self, call: str, job: UUID, now: float) -> float:
        """Return when this job's call was first refused without a fault of its own, or `now`."""
        first = self._unexplained.setdefault((call, job), now)
        if len(self._unexplained) > _MAX_UNEXPLAINED:
            self._unexplained.popitem(last=False)
        return first
