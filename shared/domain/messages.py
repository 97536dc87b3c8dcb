"""The messages on the topics: frozen, keyword-only. How they travel says `shared.envelope`.

An example of every message and version lies in `shared/examples/` and is tested. Readers ignore fields they do not
know, and every field added later has a default, so that old and new versions can run side by side. They have no slots:
orjson writes instances with a dictionary twice as fast.
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
        """The id by which readers drop repeats: the same message sent twice has the same id."""
        raise NotImplementedError

    def created(self) -> datetime:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BlogRequested(Message):
    """A store asks for a post. Accepted with a 201, so it is never refused afterwards."""

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
    """The shop's own data about the product: data for a prompt, never instructions."""
    priority: int = 0
    """Within the store only; higher goes first."""
    run_at: datetime | None = None
    webhook_url: str | None = None
    images: int = 1
    """Hero images to make: 0 or 1."""
    traceparent: str | None = None
    """W3C trace context; the record's header of this name says the same."""
    tracestate: str | None = None
    """What the tracing systems of the caller add to it; likewise."""

    def event_id(self) -> str:
        return str(self.id)

    def created(self) -> datetime:
        return self.created_at


@dataclass(frozen=True, kw_only=True)
class GenerationTask(Message):
    """The scheduler's word that it is this job's turn. A worker claims it in PostgreSQL and finds the request there."""

    TYPE: ClassVar[str] = "blogstream.generation-task.v1"
    job: UUID
    store: str
    forward: int
    """How many times the job was forwarded, this one included."""
    epoch: int
    """The leadership under which it was forwarded."""
    forwarded_at: datetime
    traceparent: str | None = None
    """W3C trace context; the record's header of this name says the same."""

    def event_id(self) -> str:
        return f"{self.job}:task:{self.forward}:{self.epoch}"

    def created(self) -> datetime:
        return self.forwarded_at


class EventKind(StrEnum):
    ADMITTED = "admitted"
    STARTED = "started"
    STEP_DONE = "step-done"
    RETRY = "retry"
    """The attempt failed for now: the job is PENDING again, not before a stated time."""
    ENDED = "ended"
    """DONE, FAILED, REJECTED or CANCELLED: says `status`."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What providers billed: tokens, images, and money in billionths of a US dollar (exact, as prices a token are)."""

    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    cost_nanousd: int = 0
    in_doubt: int = 0
    """Calls of which nobody can say whether they were billed."""

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            images=self.images + other.images,
            cost_nanousd=self.cost_nanousd + other.cost_nanousd,
            in_doubt=self.in_doubt + other.in_doubt,
        )


@dataclass(frozen=True, kw_only=True)
class PreviousOutcome:
    """How a job had ended that somebody asks for again: who has forgotten the job can still take that back."""

    status: Status
    at: datetime
    begun: bool
    """Whether it was ever claimed before it ended."""


@dataclass(frozen=True, kw_only=True)
class JobEvent(Message):
    """Something became true of a job (the row was written first). At least once; drop repeats by `event_id`."""

    TYPE: ClassVar[str] = "blogstream.job-event.v1"
    job: UUID
    store: str
    kind: EventKind
    status: Status
    attempt: int
    at: datetime
    created_at: datetime
    """When the client asked."""
    started_at: datetime | None = None
    """When the first attempt was claimed; `started_at - created_at` is the job's wait."""
    step: str | None = None
    worker: str | None = None
    usage: Usage = field(default_factory=Usage)
    """All that the job has cost so far."""
    not_before: datetime | None = None
    error: str | None = None
    forwarded_at: datetime | None = None
    """When the attempt that starts was forwarded; the way from there to the claim is Kafka's and the worker's."""
    limit_wait_s: float | None = None
    """Seconds that the step's call waited for the provider's limits."""
    former: PreviousOutcome | None = None
    """Of a RETRY that a person asked for."""
    traceparent: str | None = None
    """W3C trace context; the record's header of this name says the same."""

    def event_id(self) -> str:
        return f"{self.job}:{self.kind}:{self.attempt}:{self.step or ''}"

    def created(self) -> datetime:
        return self.at


@dataclass(frozen=True, kw_only=True)
class LimiterReport:
    """One resource of one provider as one worker sees it. `share` and `used` are per minute, in the resource's unit."""

    provider: str
    model: str
    resource: str
    """requests, tokens or images."""
    limit: float
    """The account's limit a minute, over all workers."""
    share: float
    """This worker's part of it, by the partitions it owns."""
    level: float
    """What may be spent at once; negative is debt."""
    used: float
    """Reserved in the last 60 seconds."""
    queued: int = 0
    """Calls waiting for this limiter."""
    wait_s: float | None = 0.0
    """Seconds until the last of them may go; None while nothing is ours to spend."""
    pace: float = 1.0
    """Times our share of the limit that we go at, by what the provider's headers show of the account."""
    cooling_until: datetime | None = None
    circuit_open: bool = False


@dataclass(frozen=True, kw_only=True)
class WorkerReport(Message):
    """A worker's heartbeat, every second and on change: the scheduler's credit and the operators' eyes."""

    TYPE: ClassVar[str] = "blogstream.worker-report.v1"
    worker: str
    at: datetime
    started_at: datetime
    partitions: tuple[int, ...]
    slots: int
    """Jobs it will run at once; 0 while it drains."""
    running: int
    limiters: tuple[LimiterReport, ...] = ()
    draining: bool = False
    standin: bool = False
    """Its providers are stand-ins."""

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
    """How it stands by its monthly budget; None: it has none."""


@dataclass(frozen=True, kw_only=True)
class FairnessWindow:
    """How fair the last whole window of the order was."""

    began_at: datetime
    seconds: float
    contenders: int
    """Accounts that had work waiting all the time: between them, money per weight should be equal."""
    jain: float
    """Jain's index over the contenders' money per weight: 1 is perfect."""
    largest_gap_nanousd: float
    """Money per weight between the contender that got most and the one that got least."""
    light_stores: int
    """Stores that were served and had work waiting less than half of the time."""
    light_slowdown: float | None
    """Their mean time to a post ÷ the same without the wait: 1 is as if each were alone."""


@dataclass(frozen=True, kw_only=True)
class SchedulerReport(Message):
    """The active scheduler's view, every second: the backlog's size and the stores with most of it."""

    TYPE: ClassVar[str] = "blogstream.scheduler-report.v1"
    scheduler: str
    at: datetime
    epoch: int
    pending: int
    in_flight: int
    oldest_pending_at: datetime | None = None
    """Since when the job that has waited longest could have gone. Of those not due yet, none counts."""
    stores_waiting: int = 0
    stores: tuple[StoreQueueReport, ...] = ()
    """At most 200, those with the longest queues first; those whose budgets warn or stop them even without work."""
    closed_stores: int = 0
    fairness: FairnessWindow | None = None
    delayed: int = 0
    """Of those pending, the ones that are not due yet, and those of stores that their budgets stop."""
    drifted: int = 0
    """Slots held that differed from PostgreSQL and were repaired, since this leader began."""
    stores_warned: int = 0
    """Stores that have spent the share of their monthly budget at which they want to be warned."""
    stores_stopped: int = 0
    """Stores whose monthly budget has no room for one more job."""

    def event_id(self) -> str:
        return f"{self.scheduler}:{self.at.timestamp():.6f}"

    def created(self) -> datetime:
        return self.at


@dataclass(frozen=True, kw_only=True)
class AdmissionState(Message):
    """The door of one store's queue, or of all (`*`). A null record for the key says: open, forget it."""

    TYPE: ClassVar[str] = "blogstream.store-gate.v1"
    store: str
    closed: bool
    reason: str
    """queue-full or budget-exceeded."""
    retry_after_s: float
    at: datetime
    resets_at: datetime | None = None
    """When the store's budget begins anew, if that is what keeps it out: from then on the gate says nothing."""

    def event_id(self) -> str:
        return f"{self.store}:{self.at.timestamp():.6f}"

    def created(self) -> datetime:
        return self.at


@dataclass(frozen=True, kw_only=True)
class IdempotencyClaim(Message):
    """An Idempotency-Key was used for a request. The first claim of a job in the log is the one that counts."""

    TYPE: ClassVar[str] = "blogstream.idempotency-claim.v1"
    job: UUID
    """The id that store and key make."""
    store: str
    fingerprint: str
    """Of the request, in hexadecimal: another one under the same key is refused."""
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
    IdempotencyClaim,
)
