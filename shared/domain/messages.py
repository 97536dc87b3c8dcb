"""The messages on the topics: frozen dataclasses. `shared.kafka.envelope` encodes them.

`shared/examples/` has a tested example of every message and version. Readers ignore unknown fields,
and every field added later has a default, so that old and new versions can run side by side. The
classes have no slots, because orjson writes instances with a dictionary twice as fast.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from shared.domain.budget import BudgetState
from shared.domain.job import SourceType, Status


@dataclass(frozen=True, kw_only=True)
class Message:
    TYPE: ClassVar[str]

    def event_id(self) -> str:
        """The id by which readers drop repeats. A message that is sent twice has the same id."""
        raise NotImplementedError

    def created(self) -> datetime:
        """The time of the event, for the record's headers."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BlogRequested(Message):
    """A store asks for a post. The answer was 201, so the request is never refused later."""

    TYPE: ClassVar[str] = "blogstream.blog-requested.v1"
    id: UUID
    store: str
    source_type: SourceType
    source_id: str
    created_at: datetime
    title: str | None = None
    keywords: tuple[str, ...] = ()
    language: str = "en"
    tone: str | None = None
    product: dict[str, Any] | None = None
    """The store's data about the product: data for a prompt, never instructions."""
    priority: int = 0
    """Within the store only; higher first."""
    run_at: datetime | None = None
    webhook_url: str | None = None
    images: int = 1
    """Hero images to generate: 0 or 1."""
    model: str | None = None
    """The model that writes the texts; `None`: any that the accounts offer by default."""
    traceparent: str | None = None
    """W3C trace context; the record has a header of this name with the same value."""
    tracestate: str | None = None
    """Vendor data of the caller's trace context; also a header of the record."""

    def event_id(self) -> str:
        return str(self.id)

    def created(self) -> datetime:
        return self.created_at


@dataclass(frozen=True, kw_only=True)
class GenerationTask(Message):
    """The scheduler dispatches a job. The worker claims it in PostgreSQL and reads it there."""

    TYPE: ClassVar[str] = "blogstream.generation-task.v1"
    job: UUID
    store: str
    forward: int
    """How many times the job was dispatched, including this time."""
    epoch: int
    """The epoch of the leader session that dispatched it."""
    forwarded_at: datetime
    traceparent: str | None = None
    """W3C trace context; the record has a header of this name with the same value."""
    permit_rank: float = 0.0
    """Orders the jobs that wait for permits at a worker, smallest first: the virtual time of the
    job's account, with the account's jobs in flight counted once more."""

    def event_id(self) -> str:
        return f"{self.job}:task:{self.forward}:{self.epoch}"

    def created(self) -> datetime:
        return self.forwarded_at


class EventKind(StrEnum):
    ADMITTED = "admitted"
    STARTED = "started"
    STEP_DONE = "step-done"
    RETRY = "retry"
    """The job is PENDING again: the attempt failed for now, or a user retried the job."""
    ENDED = "ended"
    """`status` is DONE, FAILED or CANCELLED."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Billed usage: tokens, images, and money in billionths of a US dollar (nano-USD, exact)."""

    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    cost_nanousd: int = 0
    in_doubt: int = 0
    """In-doubt calls: their answers were lost, and they may have been billed."""
    reasoning_tokens: int = 0
    """The part of the output tokens that a reasoning model spent before it wrote."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            images=self.images + other.images,
            cost_nanousd=self.cost_nanousd + other.cost_nanousd,
            in_doubt=self.in_doubt + other.in_doubt,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class PreviousOutcome:
    """How a retried job had ended, for readers that must undo the counted end."""

    status: Status
    at: datetime
    begun: bool
    """Whether it was ever claimed before it ended."""


@dataclass(frozen=True, kw_only=True)
class JobEvent(Message):
    """A job has changed; its row was written first. At least once: drop repeats by `event_id`."""

    TYPE: ClassVar[str] = "blogstream.job-event.v1"
    job: UUID
    store: str
    kind: EventKind
    status: Status
    attempt: int
    at: datetime
    created_at: datetime
    """When the client sent the request."""
    started_at: datetime | None = None
    """When the first attempt was claimed; `started_at - created_at` is the job's wait."""
    step: str | None = None
    worker: str | None = None
    usage: Usage = field(default_factory=Usage)
    """Total usage of the job so far."""
    not_before: datetime | None = None
    error: str | None = None
    forwarded_at: datetime | None = None
    """Of STARTED: when the attempt was dispatched. The rest until the claim is transport."""
    limit_wait_s: float | None = None
    """Seconds that the step's call waited for a permit."""
    former: PreviousOutcome | None = None
    """Of a user's RETRY: how the job had ended."""
    traceparent: str | None = None
    """W3C trace context; the record has a header of this name with the same value."""

    def event_id(self) -> str:
        return f"{self.job}:{self.kind}:{self.attempt}:{self.step or ''}"

    def created(self) -> datetime:
        return self.at


LONG_COOL_DOWN_S = 10.0
"""Calls wait for the end of a shorter cool-down. A longer one returns their jobs to the queue."""


class Need(StrEnum):
    """What a job needs a provider for. Every job needs texts."""

    TEXT = "text"
    IMAGES = "images"


@dataclass(frozen=True, kw_only=True)
class LimiterReport:
    """One rate limit as one worker sees it; `share` and `used` are per minute."""

    provider: str
    model: str
    resource: str
    """requests, tokens or images."""
    limit: float
    """The provider account's limit per minute, over all workers."""
    share: float
    """This worker's part of the limit, by the partitions it owns."""
    level: float
    """Level of the token bucket: available at once; negative is debt."""
    used: float
    """Reserved in the last 60 seconds."""
    queued: int = 0
    """Calls waiting for this limiter."""
    wait_s: float | None = 0.0
    """Seconds until the last of them gets a permit; `None` while this worker owns no quota."""
    pace: float = 1.0
    """Factor on the refill rate, learned from the provider's rate-limit headers."""
    cooling_until: datetime | None = None
    circuit_open: bool = False
    open_reason: str = ""
    """Why the circuit is open: model, address, and the provider's words."""
    serves: Need | None = None
    """What the calls are for; `None` in reports of version 0.1."""
    partitions: tuple[int, ...] | None = None
    """This worker's partitions that carry quota; `None`: all, as in reports of version 0.1."""
    carrying: int | None = None
    """How many partitions carry this quota, over all workers; `None`: all."""
    probe_due: bool = False
    """The circuit is open, and the next call may be its probe."""

    @property
    def need(self) -> Need:
        """Return what the calls are for. Reports of version 0.1 name the vendor only."""
        return self.serves or (Need.IMAGES if self.provider == "replicate" else Need.TEXT)

    def is_cooling(self, now: float, *, longer_than_s: float = 0.0) -> bool:
        """Return whether the cool-down lasts more than these seconds after `now` (epoch)."""
        until = self.cooling_until
        return until is not None and until.timestamp() - now > longer_than_s


@dataclass(frozen=True, kw_only=True)
class WorkerReport(Message):
    """A worker's heartbeat, every second and on change: its credit, and a view for operators."""

    TYPE: ClassVar[str] = "blogstream.worker-report.v1"
    worker: str
    at: datetime
    started_at: datetime
    partitions: tuple[int, ...]
    slots: int
    """Jobs that it accepts now, running ones included: few while permits are scarce, 0 while it
    drains."""
    running: int
    limiters: tuple[LimiterReport, ...] = ()
    draining: bool = False
    standin: bool = False
    """At least one of its providers is a stand-in."""
    standins: tuple[str, ...] = ()
    """The providers that are stand-ins. Workers of an older release name none."""
    total_partitions: int = 24
    """Partitions of `blog.generation`, as the worker's group has agreed on them."""
    image_slots: int | None = None
    """Jobs among them that may need an image, running ones included; `None`: all."""
    capacity: int | None = None
    """Jobs that it runs at once at most; `None` in reports of version 0.1."""
    overtaking_slots: int = 0
    """Jobs that it accepts, running ones included, if the next one gets its permits before all that
    wait for their first one."""
    lowest_waiting_rank: float | None = None
    """The smallest permit rank of those."""
    jobs_per_s: float | None = None
    """Jobs that its permits start a second; `None` in reports of version 0.1."""

    @property
    def total_slots(self) -> int:
        """Return the slots that are free or in use; none while the worker drains."""
        return self.slots if self.draining or self.capacity is None else self.capacity

    def event_id(self) -> str:
        return f"{self.worker}:{self.at.timestamp():.6f}"

    def created(self) -> datetime:
        return self.at


@dataclass(frozen=True, kw_only=True)
class StoreQueueReport:
    store: str
    queued: int
    in_flight: int
    served_nanousd: int
    weight: float = 1.0
    budget: BudgetState | None = None
    """State of the store's monthly budget; `None` without a budget."""


@dataclass(frozen=True, kw_only=True)
class FairnessWindow:
    """Fairness of the fair queue in the last complete window."""

    began_at: datetime
    seconds: float
    contenders: int
    """Accounts with waiting work all the time. Their money per weight should be equal."""
    jain: float
    """Jain's index over the contenders' money per weight: 1 is perfect."""
    largest_gap_nanousd: float
    """Largest difference in money per weight between two contenders."""
    light_stores: int
    """Served stores that had waiting work less than half of the time."""
    light_slowdown: float | None
    """Mean time to a post of light stores ÷ the same without the wait. 1: as if each were alone."""


@dataclass(frozen=True, kw_only=True)
class SchedulerReport(Message):
    """The leader's view, every second: size of the backlog, and the stores with most of it."""

    TYPE: ClassVar[str] = "blogstream.scheduler-report.v1"
    scheduler: str
    at: datetime
    epoch: int
    pending: int
    in_flight: int
    oldest_pending_at: datetime | None = None
    """Since when the job with the longest wait is due. Jobs that are not due yet do not count."""
    stores_waiting: int = 0
    stores: tuple[StoreQueueReport, ...] = ()
    """At most 200, longest queues first, then stores that a budget warns or stops."""
    closed_stores: int = 0
    fairness: FairnessWindow | None = None
    delayed: int = 0
    """Pending jobs that are not due yet, or whose store is stopped by its budget."""
    drifted: int = 0
    """Slots that differed from PostgreSQL and were repaired in this leader session."""
    stores_warned: int = 0
    """Stores whose spend has reached the warning share of their monthly budget."""
    stores_stopped: int = 0
    """Stores whose monthly budget has no room for one more job."""

    def event_id(self) -> str:
        return f"{self.scheduler}:{self.at.timestamp():.6f}"

    def created(self) -> datetime:
        return self.at


@dataclass(frozen=True, kw_only=True)
class AdmissionState(Message):
    """Closes intake for one store, or for all (`*`). A null record for the key opens it again."""

    TYPE: ClassVar[str] = "blogstream.store-gate.v1"
    store: str
    closed: bool
    reason: str
    """queue-full or budget-exceeded."""
    retry_after_s: float
    at: datetime
    resets_at: datetime | None = None
    """When the store's budget resets, if the budget closed intake: the state ends then."""

    def event_id(self) -> str:
        return f"{self.store}:{self.at.timestamp():.6f}"

    def created(self) -> datetime:
        return self.at


@dataclass(frozen=True, kw_only=True)
class IdempotencyRecord(Message):
    """A request used an idempotency key. The first record of a job in the log decides."""

    TYPE: ClassVar[str] = "blogstream.idempotency-claim.v1"
    job: UUID
    """The id derived from the store and the key."""
    store: str
    fingerprint: str
    """Of the request, in hexadecimal. Another request with the same key is refused."""
    at: datetime

    def event_id(self) -> str:
        return f"{self.job}:{self.fingerprint}:{self.at.timestamp():.6f}"

    def created(self) -> datetime:
        return self.at


MESSAGES: tuple[type[Message], ...] = (
    BlogRequested,
    GenerationTask,
    JobEvent,
    WorkerReport,
    SchedulerReport,
    AdmissionState,
    IdempotencyRecord,
)
