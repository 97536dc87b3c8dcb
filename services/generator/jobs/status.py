"""Holds the state of a worker that its reports show."""

import asyncio
import time
from dataclasses import dataclass, field

from services.generator.quota.held_jobs import HeldJobs
from shared.kafka.topics import GENERATION


@dataclass(slots=True, eq=False)
class WorkerStatus:
    """The state of one worker. The worker and its consumer write it; the reporter reads it.

    `changed` is set whenever a report should follow soon. The reporter clears it.
    """

    done: int = 0
    failed: int = 0
    stale_tasks: int = 0
    """Tasks of jobs that had ended, or been returned to the queue, before this worker claimed them.

    Most are duplicates.
    """
    partitions: tuple[int, ...] = ()
    total_partitions: int = GENERATION.partitions
    """Partitions of the topic, as the group has agreed on them."""
    draining: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    held: HeldJobs = field(init=False)

    def __post_init__(self) -> None:
        self.held = HeldJobs(self.changed.set, clock=time.monotonic)

    @property
    def running(self) -> int:
        """Return the jobs in progress."""
        return self.held.total

    def set_partitions(self, partitions: tuple[int, ...], *, total: int) -> None:
        self.partitions, self.total_partitions = partitions, total
        self.changed.set()
