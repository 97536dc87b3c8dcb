"""The table of topics: producers, consumers, key, partitions and retention."""

from dataclasses import dataclass

from shared.domain.messages import (
    AdmissionState,
    BlogRequested,
    GenerationTask,
    IdempotencyRecord,
    JobEvent,
    Message,
    SchedulerReport,
    WorkerReport,
)

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic. `messages` are its types; empty: raw records of any topic (dead letters)."""

    name: str
    key: str
    partitions: int
    """At creation; also the most parallel readers.

    Never changed later, because keys would move, except for `GENERATION`: its tasks name their
    partitions. `GENERATION_PARTITIONS` sets the number, and the topic as it exists decides.
    """
    retention_ms: int
    compacted: bool = False
    messages: tuple[type[Message], ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


REQUESTS = Topic(
    name="blog.requests",
    key="store",
    partitions=8,
    retention_ms=7 * _DAY_MS,
    messages=(BlogRequested,),
    producers=("ingest",),
    consumers=("scheduler",),
)
GENERATION = Topic(
    # The default of 24 divides evenly among 1, 2, 3, 4, 6, 8, 12 and 24 workers, and so do quotas.
    name="blog.generation",
    key="job",
    partitions=24,
    retention_ms=_DAY_MS,
    messages=(GenerationTask,),
    producers=("scheduler",),
    consumers=("generator",),
)
RESULTS = Topic(
    name="blog.results",
    key="store",
    partitions=8,
    retention_ms=7 * _DAY_MS,
    messages=(JobEvent,),
    producers=("generator", "scheduler", "ingest"),
    consumers=("scheduler", "metrics", "ingest"),
)
WORKERS = Topic(
    name="blog.workers",
    key="worker",
    partitions=1,
    retention_ms=_HOUR_MS,
    messages=(WorkerReport, SchedulerReport),
    producers=("generator", "scheduler"),
    consumers=("scheduler", "metrics"),
)
CONTROL = Topic(
    name="blog.control",
    key="store",
    partitions=1,
    retention_ms=-1,
    compacted=True,
    messages=(AdmissionState,),
    producers=("scheduler",),
    consumers=("ingest",),
)
IDEMPOTENCY = Topic(
    # Not compacted: the first record of a key decides, and compaction keeps the last.
    name="blog.idempotency",
    key="store",
    partitions=8,
    retention_ms=7 * _DAY_MS,
    messages=(IdempotencyRecord,),
    producers=("ingest",),
    consumers=("ingest",),
)
DEAD_LETTER = Topic(
    name="blog.dead-letter",
    key="job",
    partitions=1,
    retention_ms=30 * _DAY_MS,
    messages=(),
    producers=("scheduler", "generator"),
    consumers=("dead-letters", "metrics"),
)

TOPICS = (REQUESTS, GENERATION, RESULTS, WORKERS, CONTROL, IDEMPOTENCY, DEAD_LETTER)

SCHEDULER_GROUP = "blog-scheduler"
GENERATOR_GROUP = "blog-generator"
METRICS_GROUP = "blog-metrics"
WEBHOOKS_GROUP = "blog-webhooks"
