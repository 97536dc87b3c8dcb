"""Collects what the report shows: waits by class of store, fairness, use of the limits."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sandbox.simulation.arrivals import StoreClass
from sandbox.simulation.results.histogram import DurationHistogram
from sandbox.simulation.results.timeline import Sample, Timeline
from sandbox.simulation.system.jobs import SimulatedJob
from services.scheduler.fair_queue.fairness import jain_index

_MIN_JOBS_EACH = 10
"""Jobs per store that a window must have served: fewer say nothing about equal shares."""


@dataclass(slots=True)
class ClassStatistics:
    """One class of stores."""

    wait: DurationHistogram = field(default_factory=DurationHistogram)
    """From the request to the first start."""
    total: DurationHistogram = field(default_factory=DurationHistogram)
    """From the request to the post."""
    posts: int = 0
    refused: int = 0
    failed: int = 0
    cost: int = 0


class FairnessWindows:
    """Jain's index by money over the stores with waiting work throughout each window.

    A window counts if it served ten jobs or more for each of them: fewer cannot be equal.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.indexes: list[float] = []
        self.waiting: dict[str, int] = {}
        """The waiting jobs of each store that has any."""
        self._contenders: set[str] = set()
        self._served: defaultdict[str, list[int]] = defaultdict(list)

    def record_enqueue(self, store: str) -> None:
        self.waiting[store] = self.waiting.get(store, 0) + 1

    def record_dispatch(self, store: str, money: int) -> None:
        left = self.waiting[store] - 1
        if left:
            self.waiting[store] = left
        else:
            del self.waiting[store]
            self._contenders.discard(store)
        if store in self._contenders:
            self._served[store].append(money)

    def close_window(self) -> None:
        """Measure the window that ends now, if it served enough, and begin the next one."""
        money = [sum(self._served[store]) for store in self._contenders]
        jobs = sum(len(self._served[store]) for store in self._contenders)
        if len(money) > 1 and jobs >= _MIN_JOBS_EACH * len(money):
            self.indexes.append(jain_index(money))
        self._contenders = set(self.waiting)
        self._served.clear()


class RunStatistics:
    """Everything that is counted during a run."""

    def __init__(self, classes: Sequence[StoreClass], *, window_s: float) -> None:
        self.classes = [ClassStatistics() for _ in classes]
        self.fairness = FairnessWindows(window_s)
        self.timeline = Timeline()
        self.arrived = self.done = self.failed = self.refused = self.retries = 0
        self.open = 0
        """Jobs that have come and not ended."""
        self.first_at: float | None = None
        self.last_end_at = 0.0
        self.busy_s = 0.0
        """The time during which jobs waited."""
        self.busy_charged: defaultdict[str, float] = defaultdict(float)
        self.busy_running_s = self.busy_slots_s = 0.0
        self.peak_waiting, self.peak_at = 0, 0.0
        self._last: Sample | None = None

    def record_arrival(self, job: SimulatedJob) -> None:
        self.open += 1
        self.arrived += 1
        self.classes[job.kind].posts += 1
        if self.first_at is None:
            self.first_at = job.requested_at

    def record_refusal(self, job: SimulatedJob) -> None:
        self.refused += 1
        self.classes[job.kind].refused += 1

    def record_start(self, job: SimulatedJob, now: float) -> None:
        if job.started_at is None:
            job.started_at = now
            self.classes[job.kind].wait.add(now - job.requested_at)

    def record_end(self, job: SimulatedJob, now: float, *, failed: bool) -> None:
        self.open -= 1
        job.ended_at = self.last_end_at = now
        of_class = self.classes[job.kind]
        if failed:
            self.failed += 1
            of_class.failed += 1
        else:
            self.done += 1
            of_class.total.add(now - job.requested_at)

    def add_sample(self, sample: Sample) -> None:
        """Add the state of the world. Time counts as busy if jobs waited at both of its ends."""
        self.timeline.add(sample)
        if sample.waiting > self.peak_waiting:
            self.peak_waiting, self.peak_at = sample.waiting, sample.at
        last, self._last = self._last, sample
        if last is None or not last.waiting or not sample.waiting:
            return
        seconds = sample.at - last.at
        self.busy_s += seconds
        self.busy_running_s += seconds * (last.running + sample.running) / 2
        self.busy_slots_s += seconds * (last.offered + sample.offered) / 2
        for name, charged in sample.charged.items():
            self.busy_charged[name] += charged - last.charged[name]

    def busy_use(self, limits: Mapping[str, float]) -> dict[str, float | None]:
        """Return the used part of each limit (units a minute) while jobs waited."""
        minutes = self.busy_s / 60
        return {
            name: self.busy_charged[name] / (limit * minutes) if minutes else None
            for name, limit in limits.items()
        }
