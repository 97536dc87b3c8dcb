"""Judges reads of a Replicate account and of its model. Rows are tried in order."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.generator.doctor.rules import Cause, Finding, Status, Target
from services.generator.providers.openai.error_words import is_web_page
from services.generator.providers.outcomes.outcome import CallResult, TransportFailure
from services.generator.providers.replicate.outcomes import result_words

_ADDRESS, _TOKEN, _MODEL = "REPLICATE_BASE_URL", "REPLICATE_API_TOKEN", "REPLICATE_MODEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    """One known way to be wrong."""

    problem: str
    matches: Callable[[CallResult], bool]
    variable: str
    cause: Cause
    status: Status = Status.FAILED


def _has_status(*statuses: int) -> Callable[[CallResult], bool]:
    return lambda result: result.failure is None and result.status in statuses


_COMMON = (
    FaultRow(
        problem="no connection to the address",
        matches=lambda result: result.failure is TransportFailure.UNREACHABLE,
        variable=_ADDRESS,
        cause=Cause.OUTAGE,
    ),
    FaultRow(
        problem="no whole answer, or the address speaks no HTTP",
        matches=lambda result: result.failure is not None,
        variable=_ADDRESS,
        cause=Cause.OUTAGE,
    ),
    FaultRow(
        problem="the address answers with a web page, not as an API",
        matches=lambda result: is_web_page(result.body),
        variable=_ADDRESS,
        cause=Cause.SETUP,
    ),
    FaultRow(
        problem="the API token is refused",
        matches=_has_status(401),
        variable=_TOKEN,
        cause=Cause.ACCOUNT,
    ),
    FaultRow(
        problem="the account has no money left: pay, or use the token of another account",
        matches=_has_status(402),
        variable=_TOKEN,
        cause=Cause.ACCOUNT,
    ),
    FaultRow(
        problem="the token is accepted, and the provider limits calls now: jobs will wait",
        matches=_has_status(429),
        variable="REPLICATE_READ_RPM",
        cause=Cause.OUTAGE,
        status=Status.WARNING,
    ),
    FaultRow(
        problem="the server fails: an outage, or a wrong address",
        matches=lambda result: result.status >= 500,
        variable=_ADDRESS,
        cause=Cause.OUTAGE,
    ),
)
_OTHER = FaultRow(
    problem="the answer is not one of Replicate",
    matches=lambda result: result.status != 200 or not isinstance(result.body, dict),
    variable=_ADDRESS,
    cause=Cause.SETUP,
)

ACCOUNT_FAULTS: Sequence[FaultRow] = (
    *_COMMON,
    FaultRow(
        problem="the token may not read its account",
        matches=_has_status(403),
        variable=_TOKEN,
        cause=Cause.ACCOUNT,
    ),
    FaultRow(
        problem="the address does not know this path; it ends without /v1",
        matches=_has_status(404, 405, 410),
        variable=_ADDRESS,
        cause=Cause.SETUP,
    ),
    _OTHER,
)
MODEL_FAULTS: Sequence[FaultRow] = (
    *_COMMON,
    FaultRow(
        problem="the model does not exist, or the token may not use it",
        matches=_has_status(403, 404, 410),
        variable=_MODEL,
        cause=Cause.SETUP,
    ),
    _OTHER,
)


def judge_read(rows: Sequence[FaultRow], target: Target, result: CallResult) -> Finding | None:
    """Return the failure that a read shows, or `None` if it was served."""
    row = next((row for row in rows if row.matches(result)), None)
    if row is None:
        return None
    status = f"{result.status} " if result.status else ""
    words = str(result.body) if is_web_page(result.body) else f"{status}{result_words(result)}"
    return target.finding(
        row.status, row.problem, variable=row.variable, cause=row.cause, words=words
    )


def judge_inputs(target: Target, body: Any, sent: Mapping[str, Any]) -> Finding:
    """Compare the inputs that are sent with the model's schema in Replicate's description."""
    schemas = _find_schemas(body)
    schema = schemas.get("Input")
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return target.finding(
            Status.WARNING,
            "the token and the model are accepted; the model publishes no schema of its inputs, so"
            " they were not compared",
            variable=_MODEL,
        )
    known: Mapping[str, Any] = schema["properties"]
    problem = _describe_difference(known, schema.get("required"), sent) or _describe_values(
        schemas, known, sent
    )
    if problem is None:
        return target.finding(Status.OK, "the provider accepts the token, the model and its inputs")
    return target.finding(
        Status.FAILED,
        problem,
        variable=_MODEL,
        cause=Cause.SETUP,
        words=f"inputs of the model: {', '.join(sorted(known))}",
    )


def _describe_difference(
    known: Mapping[str, Any], required: Any, sent: Mapping[str, Any]
) -> str | None:
    missing = sorted(set(required if isinstance(required, list) else ()) - sent.keys())
    unknown = sorted(sent.keys() - known.keys())
    if "prompt" in unknown:
        return "the model takes no prompt: it does not make images from texts"
    if missing:
        return f"the model requires inputs that are not sent: {', '.join(missing)}"
    if unknown:
        return f"the model does not know inputs that are sent: {', '.join(unknown)}"
    return None


def _describe_values(
    schemas: Mapping[str, Any], known: Mapping[str, Any], sent: Mapping[str, Any]
) -> str | None:
    """Describe the first sent value that is not among those that its input allows."""
    for name, value in sent.items():
        allowed = _allowed_values(schemas, known[name])
        if allowed and value not in allowed:
            return f"the model does not allow {name} {value}, which is sent"
    return None


def _allowed_values(schemas: Mapping[str, Any], field: Any) -> list[Any]:
    """Return the values of an input, which its schema lists or refers to; none if any may be."""
    if not isinstance(field, dict):
        return []
    parts = field.get("allOf")
    places = [field, *(parts if isinstance(parts, list) else [])]
    named = [str(place.get("$ref")) for place in places if isinstance(place, dict)]
    places += [schemas.get(name.rpartition("/")[2]) for name in named]
    lists = [place.get("enum") for place in places if isinstance(place, dict)]
    return next((values for values in lists if isinstance(values, list)), [])


def _find_schemas(body: Any) -> Mapping[str, Any]:
    """Return the schemas in Replicate's description of a model; empty without any."""
    found = body
    for name in ("latest_version", "openapi_schema", "components", "schemas"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
