"""Measures what one job needs of its provider accounts: the sum of its calls, as a recent mean."""

from collections.abc import Mapping
from uuid import UUID

_MEAN_OVER = 20
"""The mean covers about this many jobs."""


class JobNeeds:
    """The needs of the jobs that were finished lately, in units of each resource."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}
        self._finished = 0
        self._running: dict[UUID, dict[str, float]] = {}

    def record_call(self, job: UUID, needs: Mapping[str, float]) -> None:
        """Record a granted call of a job that runs."""
        total = self._running.setdefault(job, {})
        for resource, need in needs.items():
            total[resource] = total.get(resource, 0.0) + need

    def record_end(self, job: UUID, *, done: bool) -> None:
        """Record the end of an attempt. Only a finished job counts."""
        total = self._running.pop(job, None)
        if total is None or not done:
            return
        self._finished += 1
        for resource, need in total.items():
            mean = self._mean.get(resource, need)
            self._mean[resource] = mean + (need - mean) / min(self._finished, _MEAN_OVER)

    def mean_needs(self) -> Mapping[str, float] | None:
        """Return the mean needs of a job; `None` before the first finished one."""
        return self._mean or None
