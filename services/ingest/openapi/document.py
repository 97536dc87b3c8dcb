"""/openapi.json: OpenAPI 3.1, made of the models that judge requests and describe answers. Pure."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from services.ingest.budgets.rules import BudgetBody
from services.ingest.openapi.responses import (
    ANSWERS,
    AcceptedJob,
    BulkAnswer,
    DeliveryList,
    Health,
    Job,
    JobEnded,
    JobList,
    ProblemDetails,
    Readiness,
    Replay,
    StoreBudget,
    Ticket,
)
from services.ingest.submit.bulk_rules import FOR_ALL
from services.ingest.submit.rules import BlogRequestBody
from shared.domain.api_keys import STORE_NAME
from shared.domain.job import Status

Document = dict[str, Any]

_EXAMPLE = {
    "sourceType": "keyword",
    "sourceId": "green-tea",
    "title": "How to brew green tea",
    "keywords": ["tea"],
}
_REFUSALS = {
    400: "The body is not JSON",
    401: "No valid API key",
    402: "The month's budget has no room",
    403: "The key may not do that",
    404: "No such thing here",
    408: "The body is too slow",
    409: "The job's state does not allow it",
    413: "The body is too long",
    415: "The body is of another type, not UTF-8, or encoded",
    422: "Fields at fault, each named",
    429: "The queue is full, or the store has too many of these at once",
    502: "The metrics service is away",
    503: "Something is away, the system is full, or the job is not admitted yet: come back",
}
_WAITS = {
    "Retry-After": {"description": "seconds", "schema": {"type": "integer"}},
    "RateLimit": {"description": '"queue";r=room;t=seconds', "schema": {"type": "string"}},
    "RateLimit-Policy": {
        "description": '"queue";q=jobs that may wait',
        "schema": {"type": "string"},
    },
}


class _Schemas(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """The name says it already."""
        return False


def document(*, version: str) -> Document:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "blogstream",
            "version": version,
            "description": "Blog posts for shops: asked for, followed, cancelled, and told of when they are done.",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [{"name": name} for name in ("jobs", "progress", "budgets", "webhooks", "system")],
        "paths": _jobs() | _progress() | _budgets() | _webhooks() | _system(),
        "webhooks": {"jobEnded": {"post": _job_ended()}},
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "sk_live_… of a store"}
            },
            "schemas": _schemas(),
        },
    }


def _schemas() -> Document:
    models: list[type[BaseModel]] = [BlogRequestBody, BudgetBody, *ANSWERS]
    _, found = models_json_schema(
        [(model, "validation") for model in models],
        by_alias=True,
        ref_template="#/components/schemas/{model}",
        schema_generator=_Schemas,
    )
    schemas: Document = found["$defs"]
    return schemas


def _jobs() -> Document:
    one, body = "/api/blog-generation/{id}", {"schema": _ref(BlogRequestBody)}
    key = _header(
        "Idempotency-Key",
        "the same key and request are the same job; another request is 422",
        longest=255,
    )
    array = {
        "schema": {"type": "array", "minItems": 1, "items": _ref(BlogRequestBody)},
        "example": [_EXAMPLE],
    }
    text = {"schema": {"type": "string", "minLength": 1}}
    return {
        "/api/blog-generation": {
            "post": _operation(
                "submitJob",
                "Ask for a post",
                "jobs",
                created=AcceptedJob,
                code=201,
                parameters=[key],
                body={"application/json": body | {"example": _EXAMPLE}},
                refusals=(400, 402, 403, 413, 415, 422, 429, 503),
                headers={
                    "Location": {"description": "the job", "schema": {"type": "string"}},
                    "RateLimit-Policy": _WAITS["RateLimit-Policy"],
                },
            ),
            "get": _operation(
                "listJobs",
                "The store's jobs, the newest first",
                "jobs",
                created=JobList,
                parameters=[_query("status", {"enum": list(Status), "type": "string"}), *_PAGE],
                refusals=(422, 503),
                headers={"Link": _LINK},
            ),
        },
        "/api/blog-generation/bulk": {
            "post": _operation(
                "submitJobs",
                "Ask for many posts: all are judged before any is taken",
                "jobs",
                created=BulkAnswer,
                code=201,
                parameters=[key, *_for_all()],
                body={"application/json": array, "application/x-ndjson": text, "text/csv": text},
                refusals=(400, 402, 403, 408, 413, 415, 422, 429, 503),
            ),
        },
        one: {
            "parameters": [_ID],
            "get": _operation("getJob", "A job", "jobs", created=Job, refusals=(404, 503)),
        },
        f"{one}/cancel": _change(
            "cancelJob", "Cancel a job: a running one stops after the call that it pays for"
        ),
        f"{one}/retry": _change(
            "retryJob", "Let a failed or cancelled job go on after its last paid step"
        ),
    }


def _for_all() -> list[Document]:
    said = {"description": "only with a CSV: for all of its products, as this field of a request"}
    field = f"{_ref(BlogRequestBody)['$ref']}/properties"
    return [_query(name, {"$ref": f"{field}/{name}"}) | said for name in FOR_ALL]


def _progress() -> Document:
    ticket = _query("ticket", {"type": "string"}) | {"description": "instead of a key"}
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    events = _operation(
        "followJob",
        "Progress as server-sent events, from the state now to the end",
        "progress",
        created=None,
        parameters=[ticket],
        refusals=(404, 429, 503),
        content=stream,
    )
    events["responses"]["204"] = {
        "description": "The Last-Event-ID is that of the end: nothing comes any more"
    }
    return {
        "/api/blog-generation/{id}/events": {
            "parameters": [_ID],
            "get": events | {"security": [{"key": []}, {}]},
        },
        "/api/blog-generation/{id}/events-ticket": {
            "parameters": [_ID],
            "post": _operation(
                "ticketForJob",
                "What lets a browser follow this job for a minute",
                "progress",
                created=Ticket,
                code=201,
                refusals=(404, 503),
            ),
        },
    }


def _webhooks() -> Document:
    delivery = _path("delivery", "the delivery's id")
    return {
        "/api/webhook-deliveries": {
            "get": _operation(
                "listDeliveries",
                "What was told to the store's server, with every attempt",
                "webhooks",
                created=DeliveryList,
                parameters=[_query("job", _UUID), *_PAGE],
                refusals=(422, 503),
                headers={"Link": _LINK},
            )
        },
        "/api/webhook-deliveries/{delivery}/replay": {
            "parameters": [delivery],
            "post": _operation(
                "replayDelivery",
                "Send it once more, under the same webhook-id",
                "webhooks",
                created=Replay,
                code=202,
                refusals=(404, 503),
            ),
        },
    }


def _budgets() -> Document:
    body = {
        "application/json": {
            "schema": _ref(BudgetBody),
            "example": {"monthlyCostUsd": 50, "warnAt": 0.8},
        }
    }
    store = _path("store", "the store's name", _STORE)
    return {
        "/api/stores/{store}/budget": {
            "parameters": [store],
            "get": _operation(
                "getBudget",
                "What a store may spend this month, and what it has",
                "budgets",
                created=StoreBudget,
                refusals=(404, 503),
            ),
            "put": _operation(
                "setBudget",
                "Set what a store may spend a month (an operator's key)",
                "budgets",
                created=StoreBudget,
                body=body,
                refusals=(400, 403, 404, 413, 415, 422, 503),
            ),
            "delete": _operation(
                "removeBudget",
                "Let a store spend what it likes (an operator's key)",
                "budgets",
                created=StoreBudget,
                refusals=(403, 404, 503),
            ),
        },
    }


def _job_ended() -> Document:
    """What a store's own server hears at its `webhookUrl`."""
    headers = {
        "webhook-id": "the same at every attempt",
        "webhook-timestamp": "seconds since 1970",
        "webhook-signature": "v1,… of Standard Webhooks, one for each secret in force, between them a space",
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
                "description": what,
                "schema": {"type": "string"},
            }
            for name, what in headers.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(JobEnded)}},
        },
        "responses": {
            "2XX": {"description": "Understood"},
            "410": {"description": "No more of this one"},
            "default": {"description": "Again later"},
        },
    }


def _system() -> Document:
    told = {"application/json": {"schema": {"type": "object"}}}
    text = {"schema": {"type": "string"}}
    prometheus = {"text/plain": text, "application/openmetrics-text": text}
    form = _query("format", {"type": "string"}) | {
        "description": "prometheus: as text, as Accept may ask for as well"
    }
    return {
        "/health": _open("health", "Whether this process answers", created=Health),
        "/livez": _open("live", "The same", created=Health),
        "/readyz": _open(
            "ready",
            "Whether it may get requests: what it needs is there",
            created=Readiness,
            away=503,
        ),
        "/metrics": _open(
            "metrics",
            "The metrics service's, passed on",
            content=told | prometheus,
            parameters=[form],
            away=502,
        ),
        "/api/rate-limiter/stats": _open(
            "limits", "The metrics service's, passed on", content=told, away=502
        ),
    }


def _open(
    operation: str,
    summary: str,
    *,
    created: type[BaseModel] | None = None,
    content: Document | None = None,
    parameters: list[Document] | None = None,
    away: int | None = None,
) -> Document:
    """What is asked without a key."""
    refusals = () if away is None else (away,)
    get = _operation(
        operation,
        summary,
        "system",
        created=created,
        content=content,
        parameters=parameters,
        refusals=refusals,
    )
    del get["responses"]["401"]
    return {"get": get | {"security": []}}


def _change(operation: str, summary: str) -> Document:
    post = _operation(operation, summary, "jobs", created=Job, refusals=(404, 409, 503))
    return {"parameters": [_ID], "post": post}


def _operation(  # noqa: PLR0913 - the parts of an operation
    operation: str,
    summary: str,
    tag: str,
    *,
    created: type[BaseModel] | None,
    refusals: tuple[int, ...],
    code: int = 200,
    parameters: list[Document] | None = None,
    body: Document | None = None,
    headers: Document | None = None,
    content: Document | None = None,
) -> Document:
    content = content or ({"application/json": {"schema": _ref(created)}} if created else {})
    good = {"description": "Done" if code == 200 else "Accepted", "content": content}
    responses = {str(code): good | ({"headers": headers} if headers else {})}
    responses |= {str(refusal): _refusal(refusal) for refusal in sorted({401, *refusals})}
    found: Document = {
        "operationId": operation,
        "summary": summary,
        "tags": [tag],
        "responses": responses,
    }
    found |= {"parameters": parameters} if parameters else {}
    return found | ({"requestBody": {"required": True, "content": body}} if body else {})


def _refusal(status: int) -> Document:
    content = {"application/problem+json": {"schema": _ref(ProblemDetails)}}
    wait = {"Retry-After": _WAITS["Retry-After"]}
    headers = {402: wait, 429: _WAITS, 503: wait}.get(status)
    return {"description": _REFUSALS[status], "content": content} | (
        {"headers": headers} if headers else {}
    )


def _ref(model: type[BaseModel]) -> Document:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _query(name: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "schema": schema}


def _path(name: str, what: str, schema: Document | None = None) -> Document:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": what,
        "schema": schema or _UUID,
    }


def _header(name: str, what: str, *, longest: int) -> Document:
    schema = {
        "type": "string",
        "minLength": 1,
        "maxLength": longest,
        "pattern": '^("[!#-~]+"|[!#-~]+)$',
    }
    return {"name": name, "in": "header", "description": what, "schema": schema}


_UUID = {"type": "string", "format": "uuid"}
_STORE = {"type": "string", "pattern": f"^{STORE_NAME.pattern}$"}
_ID = _path("id", "the job's id")
_LINK = {"description": 'the next page: rel="next"', "schema": {"type": "string"}}
_PAGE = [
    _query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
    _query("cursor", {"type": "string", "minLength": 1})
    | {"description": "where a page before has ended"},
    _query("store", _STORE)
    | {"description": "required with an operator's key, and of use with no other"},
]
