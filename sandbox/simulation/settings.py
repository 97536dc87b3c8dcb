"""Describes a simulated world. All times are seconds, all limits are units a minute."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from services.generator.quota.provider_bucket import ACCOUNT_FLOOR
from shared.domain.quota_layout import count_carried_calls

TEXT, IMAGE, READS = "openai", "replicate", "replicate reads"
"""The simulated limiters: one account for texts, one for images, and the reads of its images."""


def limit_name(limiter: str, resource: str) -> str:
    """Return the name of a limit, such as `openai tokens`."""
    return limiter if limiter.endswith(f" {resource}") else f"{limiter} {resource}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """What Kafka, PostgreSQL and the services add, as measured on the sandbox.

    On an idle system they sum up to the overhead that `bench latency` measures.
    """

    request_s: float = 0.005
    """From the arrival of a request to its place in the fair queue."""
    turn_s: float = 0.002
    """The shortest time between two turns of the scheduler's loop."""
    batch_s: float = 0.003
    """One dispatched batch: the rows in PostgreSQL, then the tasks on Kafka."""
    task_s: float = 0.005
    """From the decision about a job to its claim by a worker."""
    event_s: float = 0.003
    """From an event of a job to the scheduler."""
    report_s: float = 0.003
    """From a worker's report to the scheduler."""
    begin_s: float = 0.003
    """From a permit to the first byte at the provider: one row, then the call."""
    save_s: float = 0.005
    """From the last byte of an answer until it is saved."""
    read_s: float = 0.003
    """One read of a prediction."""
    file_s: float = 0.006
    """Fetching a file and storing it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How long the system needs to notice and to repair. The defaults are production's."""

    session_s: float = 10.0
    """Until Kafka's group misses a dead worker."""
    rebalance_s: float = 1.5
    """Without grants, while the partitions move."""
    silence_s: float = 5.0
    """Until a worker without a report gets no more jobs."""
    reclaim_s: float = 6.0
    """Until a dead worker's jobs return to the queue: the silence, and one look a second."""
    drain_s: float = 30.0
    """How long jobs go on at a worker that stops."""
    skew_s: float = 1.0
    """By how much clocks of workers may differ: moved quota waits so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Median latencies of the providers: log-normal with `spread`, as the stand-ins have it."""

    outline_s: float = 20.0
    article_s: float = 80.0
    image_s: float = 3.0
    spread: float = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A provider (`openai` or `replicate`) answers every call with an error for a while."""

    provider: str
    at: float
    seconds: float

    def covers(self, now: float) -> bool:
        return self.at <= now < self.at + self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDeaths:
    """So many workers are killed. As many new ones join `restart_s` later."""

    at: float
    count: int = 1
    restart_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """Every worker in turn is replaced: a new one joins, then the old one drains."""

    at: float
    every_s: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSettings:
    """Limits, workers, providers and faults of one simulated world."""

    workers: int = 1
    slots: int = 50
    partitions: int = 24
    limits: Mapping[str, Mapping[str, float]]
    """The account's limit of each resource, by limiter."""
    text_sizes: "TextSizes"
    image_cost: int = 3_000_000
    """Nano-USD."""
    latencies: Latencies = field(default_factory=Latencies)
    delays: Delays = field(default_factory=Delays)
    recovery: Recovery = field(default_factory=Recovery)
    outages: tuple[Outage, ...] = ()
    deaths: tuple[WorkerDeaths, ...] = ()
    deploys: tuple[Deploy, ...] = ()
    burst_s: float = 1.5
    account_floor: float = ACCOUNT_FLOOR
    cap: int = 20
    hard_cap: bool = False
    batch_size: int = 100
    default_cost: int = 5_000_000
    max_pending_per_store: int = 1_000
    max_pending_total: int = 50_000
    max_attempts: int = 8
    report_every_s: float = 0.1
    """The shortest time between two reports of a worker."""
    until: float = inf
    """The simulation stops here, with or without jobs left."""
    seed: int = 1

    def carried_texts(self) -> dict[str, int]:
        """Return how many of the largest text calls each limit of the account carries at once."""
        largest = {"tokens": self.text_sizes.largest_tokens}
        return {
            limit_name(TEXT, resource): count_carried_calls(limit, largest.get(resource, 1.0))
            for resource, limit in self.limits[TEXT].items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSize:
    """The size of one text call: upper bounds before it, and what it costs."""

    reserved_tokens: float
    """The worker's reservation."""
    charged_tokens: float
    """What the provider takes from its bucket."""
    used_tokens: float
    """What the answer reports."""
    cost: int
    """Nano-USD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSizes:
    outline: TextSize
    article: TextSize
    largest_tokens: float
    """The largest reservation of any call."""
