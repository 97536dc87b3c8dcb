"""Remembers which jobs' calls a provider served, to tell one job's trouble from the provider's."""

from collections import OrderedDict
from uuid import UUID

_MAX_UNEXPLAINED = 10_000


class ServedCalls:
    """The last served calls of one provider account, by kind of call (such as a step's name).

    Times are of a monotonic clock in seconds.
    """

    def __init__(self) -> None:
        self._served: dict[str, OrderedDict[UUID, float]] = {}
        self._unexplained: OrderedDict[tuple[str, UUID], float] = OrderedDict()

    def record_served(self, call: str, job: UUID, now: float) -> None:
        """Record a served call. Only the last two jobs are kept: one of them is always another."""
        served = self._served.setdefault(call, OrderedDict[UUID, float]())
        served[job] = now
        served.move_to_end(job)
        if len(served) > 2:
            served.popitem(last=False)
        self._unexplained.pop((call, job), None)

    def others_served_since(self, call: str, job: UUID, since: float) -> bool:
        """Return whether another job's call of this kind was served after `since`."""
        served = self._served.get(call, OrderedDict[UUID, float]())
        return any(at > since for other, at in served.items() if other != job)

    def first_unexplained_at(self, call: str, job: UUID, now: float) -> float:
        """Return when this job's call first got an unexplained answer: `now` if never before."""
        first = self._unexplained.setdefault((call, job), now)
        if len(self._unexplained) > _MAX_UNEXPLAINED:
            self._unexplained.popitem(last=False)
        return first
