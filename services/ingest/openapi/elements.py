"""Building blocks of /openapi.json: operations, refusals, parameters and references. Pure."""

from typing import Any

from pydantic import BaseModel

from services.ingest.openapi.schemas import ProblemDetailsSchema, component_name
from shared.domain.api_keys import STORE_NAME

Document = dict[str, Any]

_REFUSALS = {
    400: "The body is not JSON",
    401: "No valid API key",
    402: "The month's budget has no room",
    403: "The key may not do that",
    404: "No such job, store or delivery here",
    408: "The body is too slow",
    409: "The job's state does not allow it",
    413: "The body is too long",
    415: "The body is of another type, not UTF-8, or encoded",
    422: "Invalid fields, each named",
    429: "The queue is full, or the store has too many concurrent calls or streams",
    502: "The metrics service is unavailable",
    503: "A dependency is unavailable, the system is full, or the job is not admitted yet: retry",
}
WAIT_HEADERS = {
    "Retry-After": {"description": "seconds", "schema": {"type": "integer"}},
    "RateLimit": {"description": '"queue";r=room;t=seconds', "schema": {"type": "string"}},
    "RateLimit-Policy": {
        "description": '"queue";q=jobs that may wait',
        "schema": {"type": "string"},
    },
}


def operation(  # noqa: PLR0913 - all parts of an operation
    operation_id: str,
    summary: str,
    tag: str,
    *,
    answer: type[BaseModel] | None,
    refusals: tuple[int, ...],
    code: int = 200,
    parameters: list[Document] | None = None,
    body: Document | None = None,
    headers: Document | None = None,
    content: Document | None = None,
) -> Document:
    content = content or ({"application/json": {"schema": ref(answer)}} if answer else {})
    success = {"description": "Done" if code == 200 else "Accepted", "content": content}
    responses = {str(code): success | ({"headers": headers} if headers else {})}
    responses |= {str(refusal): _refusal(refusal) for refusal in sorted({401, *refusals})}
    document: Document = {
        "operationId": operation_id,
        "summary": summary,
        "tags": [tag],
        "responses": responses,
    }
    document |= {"parameters": parameters} if parameters else {}
    return document | ({"requestBody": {"required": True, "content": body}} if body else {})


def _refusal(status: int) -> Document:
    content = {"application/problem+json": {"schema": ref(ProblemDetailsSchema)}}
    wait = {"Retry-After": WAIT_HEADERS["Retry-After"]}
    headers = {402: wait, 429: WAIT_HEADERS, 503: wait}.get(status)
    return {"description": _REFUSALS[status], "content": content} | (
        {"headers": headers} if headers else {}
    )


def ref(model: type[BaseModel]) -> Document:
    return {"$ref": f"#/components/schemas/{component_name(model.__name__)}"}


def query_parameter(name: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "schema": schema}


def path_parameter(name: str, description: str, schema: Document | None = None) -> Document:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": schema or UUID_SCHEMA,
    }


def header_parameter(name: str, description: str, *, longest: int) -> Document:
    schema = {
        "type": "string",
        "minLength": 1,
        "maxLength": longest,
        "pattern": '^("[!#-~]+"|[!#-~]+)$',
    }
    return {"name": name, "in": "header", "description": description, "schema": schema}


UUID_SCHEMA = {"type": "string", "format": "uuid"}
STORE_SCHEMA = {"type": "string", "pattern": f"^{STORE_NAME.pattern}$"}
JOB_ID = path_parameter("id", "the job's id")
LINK_HEADER = {"description": 'the next page: rel="next"', "schema": {"type": "string"}}
PAGE_PARAMETERS = [
    query_parameter("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
    query_parameter("cursor", {"type": "string", "minLength": 1})
    | {"description": "the position at which the previous page ended"},
    query_parameter("store", STORE_SCHEMA)
    | {"description": "required with an operator's key; useless with a store's"},
]
