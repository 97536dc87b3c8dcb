"""Builds /openapi.json (OpenAPI 3.1) from the models of requests and responses. Pure."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from services.ingest.budgets.rules import BudgetBody
from services.ingest.openapi.elements import (
    JOB_ID,
    LINK_HEADER,
    PAGE_PARAMETERS,
    STORE_SCHEMA,
    UUID_SCHEMA,
    WAIT_HEADERS,
    Document,
    header_parameter,
    operation,
    path_parameter,
    query_parameter,
    ref,
)
from services.ingest.openapi.schemas import (
    SCHEMAS,
    AcceptedJobSchema,
    BulkAnswerSchema,
    DeliveryListSchema,
    HealthSchema,
    JobEndedSchema,
    JobListSchema,
    JobSchema,
    ReadinessSchema,
    ReplaySchema,
    StoreBudgetSchema,
    TicketSchema,
    component_name,
)
from services.ingest.submit.bulk_rules import CSV_PARAMETERS
from services.ingest.submit.rules import BlogRequestBody
from shared.domain.job import Status

_EXAMPLE = {
    "sourceType": "keyword",
    "sourceId": "green-tea",
    "title": "How to brew green tea",
    "keywords": ["tea"],
}


class _Schemas(GenerateJsonSchema):
    def normalize_name(self, name: str) -> str:
        return super().normalize_name(component_name(name))

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Omit field titles, which only repeat the field names."""
        return False


def build_document(*, version: str) -> Document:
    """Return the whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "blogstream",
            "version": version,
            "description": (
                "Blog posts for shops: request, follow and cancel them; get a webhook at the end."
            ),
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [{"name": name} for name in ("jobs", "progress", "budgets", "webhooks", "system")],
        "paths": _jobs() | _progress() | _budgets() | _webhooks() | _system(),
        "webhooks": {"jobEnded": {"post": _job_ended()}},
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a store's key, sk_live_…",
                }
            },
            "schemas": _schemas(),
        },
    }


def _schemas() -> Document:
    models: list[type[BaseModel]] = [BlogRequestBody, BudgetBody, *SCHEMAS]
    _, found = models_json_schema(
        [(model, "validation") for model in models],
        by_alias=True,
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    schemas: Document = found["$defs"]
    return schemas


def _jobs() -> Document:
    one, body = "/api/blog-generation/{id}", {"schema": ref(BlogRequestBody)}
    key = header_parameter(
        "Idempotency-Key",
        "the same key with the same request is the same job; with another request, 422",
        longest=255,
    )
    array = {
        "schema": {"type": "array", "minItems": 1, "items": ref(BlogRequestBody)},
        "example": [_EXAMPLE],
    }
    text = {"schema": {"type": "string", "minLength": 1}}
    return {
        "/api/blog-generation": {
            "post": operation(
                "submitJob",
                "Request a post",
                "jobs",
                answer=AcceptedJobSchema,
                code=201,
                parameters=[key],
                body={"application/json": body | {"example": _EXAMPLE}},
                refusals=(400, 402, 403, 413, 415, 422, 429, 503),
                headers={
                    "Location": {"description": "the job", "schema": {"type": "string"}},
                    "RateLimit-Policy": WAIT_HEADERS["RateLimit-Policy"],
                },
            ),
            "get": operation(
                "listJobs",
                "List the store's jobs, newest first",
                "jobs",
                answer=JobListSchema,
                parameters=[
                    query_parameter("status", {"enum": list(Status), "type": "string"}),
                    *PAGE_PARAMETERS,
                ],
                refusals=(422, 503),
                headers={"Link": LINK_HEADER},
            ),
        },
        "/api/blog-generation/bulk": {
            "post": operation(
                "submitJobs",
                "Request many posts: all are validated before any is accepted",
                "jobs",
                answer=BulkAnswerSchema,
                code=201,
                parameters=[key, *_for_all()],
                body={"application/json": array, "application/x-ndjson": text, "text/csv": text},
                refusals=(400, 402, 403, 408, 413, 415, 422, 429, 503),
            ),
        },
        one: {
            "parameters": [JOB_ID],
            "get": operation("getJob", "Get a job", "jobs", answer=JobSchema, refusals=(404, 503)),
        },
        f"{one}/cancel": _change(
            "cancelJob", "Cancel a job: a running one stops after its current provider call"
        ),
        f"{one}/retry": _change(
            "retryJob", "Resume a failed or cancelled job after its last paid step"
        ),
    }


def _for_all() -> list[Document]:
    description = "only with a CSV: sets this field of the request for all products"
    field = f"{ref(BlogRequestBody)['$ref']}/properties"
    return [
        query_parameter(name, {"$ref": f"{field}/{name}"}) | {"description": description}
        for name in CSV_PARAMETERS
    ]


def _progress() -> Document:
    ticket = query_parameter("ticket", {"type": "string"}) | {"description": "instead of a key"}
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    events = operation(
        "followJob",
        "Follow a job by server-sent events, from its current state to its end",
        "progress",
        answer=None,
        parameters=[ticket],
        refusals=(404, 429, 503),
        content=stream,
    )
    events["responses"]["204"] = {
        "description": "The Last-Event-ID is that of the last event; no event follows"
    }
    return {
        "/api/blog-generation/{id}/events": {
            "parameters": [JOB_ID],
            "get": events | {"security": [{"key": []}, {}]},
        },
        "/api/blog-generation/{id}/events-ticket": {
            "parameters": [JOB_ID],
            "post": operation(
                "ticketForJob",
                "Get a ticket for a browser to follow this job for a minute",
                "progress",
                answer=TicketSchema,
                code=201,
                refusals=(404, 503),
            ),
        },
    }


def _webhooks() -> Document:
    delivery = path_parameter("delivery", "the delivery's id")
    return {
        "/api/webhook-deliveries": {
            "get": operation(
                "listDeliveries",
                "List the webhook deliveries to the store's server, with every attempt",
                "webhooks",
                answer=DeliveryListSchema,
                parameters=[query_parameter("job", UUID_SCHEMA), *PAGE_PARAMETERS],
                refusals=(422, 503),
                headers={"Link": LINK_HEADER},
            )
        },
        "/api/webhook-deliveries/{delivery}/replay": {
            "parameters": [delivery],
            "post": operation(
                "replayDelivery",
                "Send a delivery again, with the same webhook-id",
                "webhooks",
                answer=ReplaySchema,
                code=202,
                refusals=(404, 503),
            ),
        },
    }


def _budgets() -> Document:
    body = {
        "application/json": {
            "schema": ref(BudgetBody),
            "example": {"monthlyCostUsd": 50, "warnAt": 0.8},
        }
    }
    store = path_parameter("store", "the store's name", STORE_SCHEMA)
    return {
        "/api/stores/{store}/budget": {
            "parameters": [store],
            "get": operation(
                "getBudget",
                "Get a store's budget and spend of this month",
                "budgets",
                answer=StoreBudgetSchema,
                refusals=(404, 503),
            ),
            "put": operation(
                "setBudget",
                "Set a store's monthly budget (operators only)",
                "budgets",
                answer=StoreBudgetSchema,
                body=body,
                refusals=(400, 403, 404, 413, 415, 422, 503),
            ),
            "delete": operation(
                "removeBudget",
                "Remove a store's budget (operators only)",
                "budgets",
                answer=StoreBudgetSchema,
                refusals=(403, 404, 503),
            ),
        },
    }


def _job_ended() -> Document:
    """Describe the webhook that a store's server receives at its `webhookUrl`."""
    headers = {
        "webhook-id": "the same for every attempt",
        "webhook-timestamp": "seconds since 1970",
        "webhook-signature": (
            "v1,… of Standard Webhooks, one for each valid secret, separated by spaces"
        ),
    }
    return {
        "operationId": "jobEnded",
        "summary": "A job has ended (https://www.standardwebhooks.com)",
        "tags": ["webhooks"],
        "security": [],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": True,
                "description": description,
                "schema": {"type": "string"},
            }
            for name, description in headers.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": ref(JobEndedSchema)}},
        },
        "responses": {
            "2XX": {"description": "Received"},
            "410": {"description": "Do not send this webhook again"},
            "default": {"description": "Send it again later"},
        },
    }


def _system() -> Document:
    json = {"application/json": {"schema": {"type": "object"}}}
    text = {"schema": {"type": "string"}}
    prometheus = {"text/plain": text, "application/openmetrics-text": text}
    form = query_parameter("format", {"type": "string"}) | {
        "description": "prometheus selects text, as Accept can"
    }
    return {
        "/health": _open("health", "Get whether this process answers", answer=HealthSchema),
        "/livez": _open("live", "Get the same", answer=HealthSchema),
        "/readyz": _open(
            "ready",
            "Get whether this process can serve requests",
            answer=ReadinessSchema,
            unavailable=503,
        ),
        "/metrics": _open(
            "metrics",
            "Get the metrics service's metrics",
            content=json | prometheus,
            parameters=[form],
            unavailable=502,
        ),
        "/api/rate-limiter/stats": _open(
            "limits", "Get the metrics service's rate limits", content=json, unavailable=502
        ),
    }


def _open(
    operation_id: str,
    summary: str,
    *,
    answer: type[BaseModel] | None = None,
    content: Document | None = None,
    parameters: list[Document] | None = None,
    unavailable: int | None = None,
) -> Document:
    """Describe a GET without a key. `unavailable` is the status while a dependency is down."""
    refusals = () if unavailable is None else (unavailable,)
    get = operation(
        operation_id,
        summary,
        "system",
        answer=answer,
        content=content,
        parameters=parameters,
        refusals=refusals,
    )
    del get["responses"]["401"]
    return {"get": get | {"security": []}}


def _change(operation_id: str, summary: str) -> Document:
    post = operation(operation_id, summary, "jobs", answer=JobSchema, refusals=(404, 409, 503))
    return {"parameters": [JOB_ID], "post": post}
