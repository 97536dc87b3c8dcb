"""Models of ingest's responses and webhooks: the schemas of /openapi.json.

Tests validate real responses against them. A class name is the component's name plus `Schema`.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from shared.domain.budget import BudgetState
from shared.domain.job import SourceType, Status, Step


def component_name(model_name: str) -> str:
    """Return the name of a model's component in /openapi.json."""
    return model_name.removesuffix("Schema")


class _Schema(BaseModel):
    """Base: camelCase names; later versions may add fields."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        model_title_generator=lambda model: component_name(model.__name__),
        frozen=True,
    )


class UsageSchema(_Schema):
    """Tokens and images that providers have billed."""

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = Field(
        0, description="the part of outputTokens that a reasoning model spent before it wrote"
    )
    images: int


class WaitingSchema(_Schema):
    """Why a job has not started, and until about when. Estimates, one or two seconds old."""

    reason: str
    until: datetime | None
    place: int | None = Field(None, description="the job's place in its store's queue, from 1")
    limited_by: str | None = Field(
        None, description="the limit that keeps the whole system from starting more jobs"
    )


class JobErrorSchema(_Schema):
    code: str | None
    message: str


_AS_ACCEPTED = (
    "the status at acceptance, also for a repeat with an Idempotency-Key; GET returns the current"
    " status"
)
_ALL_STATES = "REJECTED is reserved and never occurs today"


class AcceptedJobSchema(_Schema):
    """An accepted job; it is never refused afterwards."""

    id: UUID
    status: Literal["PENDING"] = Field(description=_AS_ACCEPTED)
    store: str
    source_type: SourceType
    source_id: str
    created_at: datetime


class JobSummarySchema(_Schema):
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
    usage: UsageSchema
    cost_usd: float
    waiting: WaitingSchema | None
    error: JobErrorSchema | None


class JobStepSchema(_Schema):
    name: Step
    state: Literal["STARTED", "DONE", "FAILED"]
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    usage: UsageSchema
    cost_usd: float
    in_doubt: int = Field(description="calls that may or may not have been billed")


class PostSchema(_Schema):
    title: str
    slug: str
    meta_description: str
    html: str
    image_url: str | None


class JobSchema(JobSummarySchema):
    """A job with its steps and, when DONE, its post."""

    steps: list[JobStepSchema]
    post: PostSchema | None


class JobListSchema(_Schema):
    items: list[JobSummarySchema]
    next: str | None = Field(description="the cursor of the next page; also in the header Link")


class BulkItemSchema(_Schema):
    item: int = Field(description="the item's index in the call, from 0")
    id: UUID
    status: Literal["PENDING"] = Field(description=_AS_ACCEPTED)
    source_type: SourceType
    source_id: str


class LeftOutSchema(_Schema):
    """A product of a CSV that gets no post."""

    line: int
    source_id: str
    reason: str


class BulkAnswerSchema(_Schema):
    taken: int
    items: list[BulkItemSchema]
    left_out: list[LeftOutSchema] = Field(
        description="products of a CSV whose Status is draft or archived"
    )


class TicketSchema(_Schema):
    """Opens one job's event stream for a short time, without a key."""

    ticket: str
    url: str
    expires_at: datetime


class StoreBudgetSchema(_Schema):
    """A store's budget and spend this month. Without a budget, its fields are null."""

    store: str
    month: str = Field(description="the calendar month, in UTC")
    monthly_cost_usd: float | None
    warn_at: float | None = Field(
        description="the share of the budget at which the state becomes a warning"
    )
    spent_usd: float
    reserved_usd: float = Field(description="the expected unpaid cost of running and waiting jobs")
    remaining_usd: float | None
    state: BudgetState = Field(description="stopped: the budget has no room for one more job")
    resets_at: datetime


class DeliveryAttemptSchema(_Schema):
    at: datetime
    status: int | None = Field(description="the status that the store's server answered")
    error: str | None = Field(description="the reason when there was no answer")
    seconds: float


class DeliverySchema(_Schema):
    """A webhook message to a store's server, sent or waiting."""

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
    log: list[DeliveryAttemptSchema]


class DeliveryListSchema(_Schema):
    items: list[DeliverySchema]
    next: str | None


class ReplaySchema(_Schema):
    id: UUID
    state: Literal["WAITING"]
    next_at: datetime


class EndedJobSchema(_Schema):
    """An ended job in its webhook, without the post; GET returns the post."""

    id: UUID
    store: str
    status: Literal["DONE", "FAILED", "CANCELLED", "REJECTED"] = Field(description=_ALL_STATES)
    source_type: SourceType
    source_id: str
    created_at: datetime
    finished_at: datetime | None
    cost_usd: float
    error: JobErrorSchema | None


class JobEndedSchema(_Schema):
    """The body of a webhook."""

    type: Literal["job.done", "job.failed", "job.cancelled", "job.rejected"]
    timestamp: datetime
    data: EndedJobSchema


class HealthSchema(_Schema):
    status: Literal["ok"]
    timestamp: datetime


class ReadinessSchema(_Schema):
    status: Literal["ready"]


class ProblemErrorSchema(_Schema):
    """One invalid field. In a bulk call, `item` and `line` locate it."""

    model_config = ConfigDict(extra="allow")

    field: str
    detail: str
    item: int | None = None
    line: int | None = None


class ProblemDetailsSchema(_Schema):
    """The body of every refusal (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str | None = None
    resets_at: datetime | None = Field(
        None, description="of a 402: the time at which the budget resets"
    )
    room: int | None = Field(
        None, description="of a bulk call's 402 or 429: the number of items that fit"
    )
    taken: int | None = Field(
        None, description="of a bulk call's 503: the number of accepted items, from the first on"
    )
    id: UUID | None = Field(None, description="of a 503 to one request: its job, possibly accepted")
    unknown: list[UUID] | None = Field(
        None,
        description="of a bulk call's 503: the possibly accepted jobs after the accepted ones",
    )
    errors: list[ProblemErrorSchema] | None = None


SCHEMAS: tuple[type[BaseModel], ...] = (
    AcceptedJobSchema,
    JobSchema,
    JobListSchema,
    BulkAnswerSchema,
    TicketSchema,
    StoreBudgetSchema,
    DeliveryListSchema,
    ReplaySchema,
    JobEndedSchema,
    HealthSchema,
    ReadinessSchema,
    ProblemDetailsSchema,
)
