"""A world of slots and jobs under a virtual clock: who runs when is the policy's decision, all else is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`cost` in nano-USD and `seconds` of run time are known to nobody before the job has ended."""

    number: int
    store: str
    asked_at: float
    cost: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A job that was run. Times in seconds of the virtual clock."""

    job: Job
    started_at: float
    ended_at: float


class Policy(Protocol):
    """An order of the backlog."""

    def add(self, job: Job, now: float) -> None: ...

    def pick(self, now: float) -> Job | None: ...

    def settle(self, job: Job, now: float) -> None: ...


def run(
    policy: Policy, jobs: Sequence[Job], *, slots: int, stall: tuple[float, float] = (inf, inf)
) -> list[Served]:
    """Run all jobs on `slots` slots; nothing starts between the times of `stall`. In the order of their starts."""
    events: list[tuple[float, int, Job | None, bool]] = [
        (job.asked_at, job.number, job, False) for job in jobs
    ]
    events.append((stall[1], -1, None, False))
    heapify(events)
    served: list[Served] = []
    free = slots
    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, _, job, ended = heappop(events)
            if job is not None and ended:
                policy.settle(job, now)
                free += 1
            elif job is not None:
                policy.add(job, now)
        stalled = stall[0] <= now < stall[1]
        while not stalled and free and (picked := policy.pick(now)) is not None:
            free -= 1
            served.append(Served(job=picked, started_at=now, ended_at=now + picked.seconds))
            heappush(events, (now + picked.seconds, picked.number, picked, True))
    return served
