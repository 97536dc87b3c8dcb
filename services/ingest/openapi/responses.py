"""What ingest answers, as models: the schemas of /openapi.json. Tests hold every real answer against them."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from shared.domain.budget import BudgetState
from shared.domain.job import SourceType, Status, Step


class Answer(BaseModel):
    """Base: camelCase names; more fields may come in later versions."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class Usage(Answer):
    """What providers billed."""

    input_tokens: int
    output_tokens: int
    images: int


class Waiting(Answer):
    """Why a job has not begun, and until about when; estimates, a second or two old."""

    reason: str
    until: datetime | None
    place: int | None = Field(None, description="the job's place in its store's queue, from 1")
    limited_by: str | None = Field(
        None, description="what keeps the whole system from starting more"
    )


class JobError(Answer):
    code: str | None
    message: str


_AS_ACCEPTED = (
    "as accepted, also for a repeat with an Idempotency-Key: how it stands by now, GET says"
)
_ALL_STATES = "REJECTED is reserved: no job becomes so today"


class AcceptedJob(Answer):
    """A job that was accepted: it is never refused afterwards."""

    id: UUID
    status: Literal["PENDING"] = Field(description=_AS_ACCEPTED)
    store: str
    source_type: SourceType
    source_id: str
    created_at: datetime


class JobSummary(Answer):
    """A job as an item of a list."""

    id: UUID
    store: str
    status: Status = Field(description=_ALL_STATES)
    source_type: SourceType
    source_id: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    usage: Usage
    cost_usd: float
    waiting: Waiting | None
    error: JobError | None


class JobStep(Answer):
    name: Step
    state: Literal["STARTED", "DONE", "FAILED"]
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    usage: Usage
    cost_usd: float
    in_doubt: int = Field(description="calls of which nobody can say whether they were billed")


class Post(Answer):
    title: str
    slug: str
    meta_description: str
    html: str
    image_url: str | None


class Job(JobSummary):
    """A job with its steps and, when DONE, its post."""

    steps: list[JobStep]
    post: Post | None


class JobList(Answer):
    items: list[JobSummary]
    next: str | None = Field(description="the cursor of the next page; also in the header Link")


class BulkItem(Answer):
    item: int = Field(description="the item's index in the call, from 0")
    id: UUID
    status: Literal["PENDING"] = Field(description=_AS_ACCEPTED)
    source_type: SourceType
    source_id: str


class LeftOut(Answer):
    """A product of a CSV that is not asked for."""

    line: int
    source_id: str
    reason: str


class BulkAnswer(Answer):
    taken: int
    items: list[BulkItem]
    left_out: list[LeftOut] = Field(
        description="products of a CSV whose Status is draft or archived"
    )


class Ticket(Answer):
    """What opens one job's stream of events for a short while."""

    ticket: str
    url: str
    expires_at: datetime


class StoreBudget(Answer):
    """How a store stands this month. Without a budget, the fields that only a budget has are null."""

    store: str
    month: str = Field(description="the calendar month, in UTC")
    monthly_cost_usd: float | None
    warn_at: float | None = Field(
        description="the share of it from which on the state is a warning"
    )
    spent_usd: float
    reserved_usd: float = Field(
        description="for jobs that run or wait: what they will probably cost, and is not paid"
    )
    remaining_usd: float | None
    state: BudgetState = Field(description="stopped: there is no room for one more job")
    resets_at: datetime


class DeliveryAttempt(Answer):
    at: datetime
    status: int | None = Field(description="what the store's server answered")
    error: str | None = Field(description="why it could not be asked")
    seconds: float


class Delivery(Answer):
    """What was, or is to be, told to a store's own server."""

    id: UUID
    webhook_id: str
    job: UUID
    url: str
    type: str
    state: Literal["WAITING", "DELIVERED", "FAILED"]
    attempts: int
    next_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None
    log: list[DeliveryAttempt]


class DeliveryList(Answer):
    items: list[Delivery]
    next: str | None


class Replay(Answer):
    id: UUID
    state: Literal["WAITING"]
    next_at: datetime


class EndedJob(Answer):
    """A job that has ended, as its webhook tells it: the post is to be fetched."""

    id: UUID
    store: str
    status: Literal["DONE", "FAILED", "CANCELLED", "REJECTED"] = Field(description=_ALL_STATES)
    source_type: SourceType
    source_id: str
    created_at: datetime
    finished_at: datetime | None
    cost_usd: float
    error: JobError | None


class JobEnded(Answer):
    """The body of a webhook."""

    type: Literal["job.done", "job.failed", "job.cancelled", "job.rejected"]
    timestamp: datetime
    data: EndedJob


class Health(Answer):
    status: Literal["ok"]
    timestamp: datetime


class Readiness(Answer):
    status: Literal["ready"]


class ProblemError(Answer):
    """One fault. In a bulk call `item` and `line` say where."""

    model_config = ConfigDict(extra="allow")

    field: str
    detail: str
    item: int | None = None
    line: int | None = None


class ProblemDetails(Answer):
    """RFC 9457: every refusal."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str | None = None
    resets_at: datetime | None = Field(None, description="of a 402: when the budget begins anew")
    room: int | None = Field(
        None, description="of a bulk call's 402 or 429: the items that there is room for"
    )
    taken: int | None = Field(
        None, description="of a bulk call's 503: the first items, that were accepted"
    )
    id: UUID | None = Field(
        None, description="of a 503 to one request: its job, which may have been accepted"
    )
    unknown: list[UUID] | None = Field(
        None,
        description="of a bulk call's 503: the jobs after those taken, of which any may have been accepted",
    )
    errors: list[ProblemError] | None = None


ANSWERS: tuple[type[BaseModel], ...] = (
    AcceptedJob,
    Job,
    JobList,
    BulkAnswer,
    Ticket,
    StoreBudget,
    DeliveryList,
    Replay,
    JobEnded,
    Health,
    Readiness,
    ProblemDetails,
)
