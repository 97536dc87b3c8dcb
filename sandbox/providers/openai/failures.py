"""Answers that report a failure: scripted ones, and a 429 in every form that was reported."""

import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from sandbox.providers.bucket import MinuteBucket, go_duration
from sandbox.providers.faults import ScriptedFault
from sandbox.providers.openai.errors import Refusal
from sandbox.providers.openai.rendering import render_status
from sandbox.providers.openai.request import TextRequest
from sandbox.providers.throttle import Denial, ThrottleStyle
from sandbox.providers.wire import broken_response, json_response

FAILURES = {
    "401",
    "403",
    "404",
    "429",
    "500",
    "502",
    "503",
    "504",
    "insufficient_quota",
    "timeout",
    "cut",
    "reset",
    "malformed",
    "response",
    "status",
}
_ACCOUNT_FAULTS = {
    "insufficient_quota": Refusal(
        429,
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
        kind="insufficient_quota",
    ),
    "401": Refusal(401, "invalid_api_key", "Incorrect API key provided."),
    "403": Refusal(403, "model_not_found", "Project does not have access to the model."),
    "404": Refusal(404, "model_not_found", "The model does not exist."),
}

_PERIODS = {
    ("requests", "min"): "requests per min (RPM)",
    ("tokens", "min"): "tokens per min (TPM)",
    ("requests", "day"): "requests per day (RPD)",
}
_QUOTA_MESSAGE = (
    "You exceeded your current quota, please check your plan and billing details. For more"
    " information on this error, read the docs:"
    " https://platform.openai.com/docs/guides/error-codes/api-errors."
)


def failed_call(fault: ScriptedFault, call: TextRequest, headers: Mapping[str, str]) -> Response:
    """Return the answer of a fault that replaces the model's. `timeout` has waited before."""
    headers = dict(headers)
    if fault.retry_after is not None:
        headers["retry-after"] = str(math.ceil(fault.retry_after))
    broken = broken_response(fault)
    if broken is not None:
        return broken
    if fault.kind == "malformed":
        return Response(b'{"id": "resp_', 200, headers, "application/json")
    if fault.kind == "status":
        body = render_status(call, str(fault.status or "failed"), fault.error)
        return json_response(body, headers=headers)
    return _scripted_refusal(fault.kind, call.model.name).response(headers)


def _scripted_refusal(kind: str, model: str) -> Refusal:
    if kind in _ACCOUNT_FAULTS:
        return _ACCOUNT_FAULTS[kind]
    if kind == "429":
        text = f"Rate limit reached for {model} (scripted). Please try again in 1s."
        return Refusal(429, "rate_limit_exceeded", text, kind="requests")
    if kind == "timeout":
        return Refusal(504, None, "timed out (scripted)", kind="server_error")
    return Refusal(int(kind), None, "The server had an error (scripted).", kind="server_error")


def scripted_tokens(fault: ScriptedFault) -> int | None:
    """Return the tokens that a scripted answer names, itself or in its usage. None: no charge."""
    usage = fault.body.get("usage") if isinstance(fault.body, dict) else None
    if fault.tokens is None and isinstance(usage, dict):
        return usage.get("total_tokens")
    return fault.tokens


def limit_headers(buckets: Mapping[str, MinuteBucket], now: float) -> dict[str, str]:
    """Return the `x-ratelimit-*` headers of every limit."""
    headers = {}
    for name, bucket in buckets.items():
        headers[f"x-ratelimit-limit-{name}"] = f"{bucket.limit:.0f}"
        headers[f"x-ratelimit-remaining-{name}"] = f"{bucket.remaining(now):.0f}"
        headers[f"x-ratelimit-reset-{name}"] = go_duration(bucket.full_in_s(now))
    return headers


def rate_limited(
    denial: Denial, style: ThrottleStyle, *, model: object, headers: Mapping[str, str]
) -> Response:
    """Return the 429 answer. `headers` are those that every answer of this style has."""
    named = dict(headers) | _denial_headers(denial, style)
    return json_response({"error": _error(denial, style, model)}, 429, named)


def _denial_headers(denial: Denial, style: ThrottleStyle) -> dict[str, str]:
    wait = go_duration(denial.wait_s)
    if denial.period == "day":
        return {
            "x-ratelimit-limit-requests": f"{denial.limit:.0f}",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": wait,
        }
    seconds = str(math.ceil(denial.wait_s))
    if style == "full":
        return {
            "retry-after": seconds,
            "retry-after-ms": str(math.ceil(denial.wait_s * 1000)),
        }
    if style == "retry-after":
        return {"retry-after": seconds}
    return {f"x-ratelimit-reset-{denial.resource}": wait} if style == "reset" else {}


def _error(denial: Denial, style: ThrottleStyle, model: object) -> dict[str, Any]:
    if style == "insufficient_quota":
        return _describe(_QUOTA_MESSAGE, "insufficient_quota", None)
    period = _PERIODS[(denial.resource, denial.period)]
    message = (
        f"Rate limit reached for {model} in organization org-standin on {period}:"
        f" Limit {denial.limit:.0f}, Used {denial.used:.0f}, Requested {denial.need:.0f}."
    )
    if style == "code-429":
        message = f"litellm.RateLimitError: RateLimitError: OpenAIException - {message}"
        return _describe(message, "throttling_error", "429")
    if style == "plain":
        return _describe(message, denial.resource, "rate_limit_exceeded")
    message += f" Please try again in {go_duration(denial.wait_s)}."
    return _describe(message, denial.resource, "rate_limit_exceeded")


def _describe(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": None, "code": code}
