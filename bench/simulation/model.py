"""Simulates jobs on slots under a virtual clock. The policy chooses the next job."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedJob:
    """`cost` is in nano-USD, `seconds` is the run time. Policies learn both when the job ends."""

    number: int
    store: str
    requested_at: float
    cost: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedJob:
    """A job and its run, in seconds of the virtual clock."""

    job: SimulatedJob
    started_at: float
    ended_at: float


class SchedulingPolicy(Protocol):
    """Orders the waiting jobs."""

    def enqueue(self, job: SimulatedJob, now: float) -> None: ...

    def pick_next(self, now: float) -> SimulatedJob | None: ...

    def settle_job(self, job: SimulatedJob, now: float) -> None: ...


def simulate(
    policy: SchedulingPolicy,
    jobs: Sequence[SimulatedJob],
    *,
    slots: int,
    stall: tuple[float, float] = (inf, inf),
) -> list[ServedJob]:
    """Run all jobs on `slots` slots and return them in the order of their starts.

    No job starts between the two times of `stall`.
    """
    events: list[tuple[float, int, SimulatedJob | None, bool]] = [
        (job.requested_at, job.number, job, False) for job in jobs
    ]
    events.append((stall[1], -1, None, False))
    heapify(events)
    served: list[ServedJob] = []
    free = slots
    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, _, job, ended = heappop(events)
            if job is not None and ended:
                policy.settle_job(job, now)
                free += 1
            elif job is not None:
                policy.enqueue(job, now)
        stalled = stall[0] <= now < stall[1]
        while not stalled and free and (picked := policy.pick_next(now)) is not None:
            free -= 1
            served.append(ServedJob(job=picked, started_at=now, ended_at=now + picked.seconds))
            heappush(events, (now + picked.seconds, picked.number, picked, True))
    return served
