"""Every known form of outcome of a text call, by an example in its source's shape."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.providers.openai.outcomes import TEXT_OUTCOMES, classify_text
from services.generator.providers.outcomes.outcome import CallResult, OutcomeKind, TransportFailure
from tests.support.text_answers import (
    OUTLINE_JSON,
    chat_answer,
    error_body,
    response_answer,
)

NOW = datetime(2026, 11, 30, tzinfo=UTC)
PAGE = "<!DOCTYPE html>\n<html><head><title>{}</title></head><body><h1>{}</h1></body></html>"


def answered(status: int, body: Any, **headers: str) -> CallResult:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return CallResult(status=status, headers=named, body=body)


def failed_response(code: str, message: str) -> dict[str, Any]:
    error = {"code": code, "message": message}
    return response_answer(status="failed", error=error, usage=None)


EXAMPLES: list[tuple[str, CallResult]] = [
    # No whole answer.
    ("no connection", CallResult(failure=TransportFailure.UNREACHABLE, detail="ConnectError")),
    ("no answer in time", CallResult(failure=TransportFailure.TIMEOUT)),
    ("connection lost", CallResult(failure=TransportFailure.LOST, detail="ReadError")),
    # The account.
    (
        "account deactivated or key refused",
        answered(401, error_body("Incorrect API key provided: sk-x.", code="invalid_api_key")),
    ),
    (
        "account deactivated or key refused",
        answered(403, error_body("This account is closed.", code="account_deactivated")),
    ),
    ("not authenticated", answered(401, {"statusCode": 401, "message": "Access denied."})),
    ("not authenticated", answered(401, error_body("No auth credentials found", code=401))),
    ("not authenticated", answered(401, "")),
    (
        "no credit",
        answered(
            429,
            error_body(
                "You exceeded your current quota, please check your plan and billing details.",
                type="insufficient_quota",
            ),
        ),
    ),
    ("no credit", answered(403, error_body("Stopped.", code="billing_hard_limit_reached"))),
    ("no credit", answered(402, error_body("Insufficient Balance", code="invalid_request_error"))),
    (
        "no credit",
        answered(402, error_body("This request requires more credits, or fewer max_tokens.")),
    ),
    ("no credit", answered(403, error_body("Key limit exceeded (monthly limit).", code=403))),
    (
        "no credit",
        answered(
            400,
            error_body(
                "Budget has been exceeded! Current cost: 12.4, Max budget: 10.0",
                type="budget_exceeded",
                code="400",
            ),
        ),
    ),
    (
        "no credit",
        answered(429, error_body("over budget", type="budget_exceeded", code="429")),
    ),
    ("no credit", answered(200, failed_response("insufficient_quota", "You have no quota left."))),
    ("payment required", answered(402, {"detail": "Please add a card."})),
    (
        "no permission",
        answered(403, error_body("You have insufficient permissions for this operation.")),
    ),
    (
        "no permission",
        answered(
            403,
            error_body(
                "Country, region, or territory not supported",
                code="unsupported_country_region_territory",
            ),
        ),
    ),
    # The request.
    (
        "flagged by moderation",
        answered(
            403,
            error_body(
                "The chosen model requires this check and your input did not pass",
                code=403,
                metadata={
                    "reasons": ["violence"],
                    "flagged_input": "kitchen knives",
                    "provider_name": "OpenAI",
                },
            ),
        ),
    ),
    (
        "flagged by moderation",
        answered(
            400,
            error_body(
                "The response was filtered due to the prompt.",
                param="prompt",
                code="content_filter",
                status=400,
                innererror={"code": "ResponsibleAIPolicyViolation"},
            ),
        ),
    ),
    ("flagged by moderation", answered(200, failed_response("invalid_prompt", "Not this one."))),
    (
        "against the content policy",
        answered(403, error_body("Your input was flagged by moderation")),
    ),
    (
        "against the content policy",
        answered(400, error_body("Your request was rejected as a result of our safety system.")),
    ),
    (
        "against the content policy",
        answered(200, {"error": {"code": 403, "message": "Your input was flagged: violence"}}),
    ),
    (
        "input too long",
        answered(
            400,
            error_body(
                "Your input exceeds the context window of this model.",
                code="context_length_exceeded",
                type="invalid_request_error",
            ),
        ),
    ),
    (
        "input too long",
        answered(
            200,
            error_body(
                "the request exceeds the available context size",
                code=400,
                type="exceed_context_size_error",
            ),
        ),
    ),
    (
        "input longer than the context",
        answered(400, error_body("max_tokens must be at least 1, got -186.", code=400)),
    ),
    ("input longer than the context", answered(400, {"detail": "prompt is too long: 9000"})),
    (
        "input alone longer than the context",
        answered(
            400,
            error_body(
                "This model's maximum context length is 4096 tokens. However, you requested 9003"
                " tokens (6003 in the messages, 3000 in the completion)."
            ),
        ),
    ),
    ("body too large", answered(413, PAGE.format("413", "Request Entity Too Large"))),
    # The limits.
    (
        "quota of a minute or a day",
        answered(
            429,
            [
                {
                    "error": {
                        "code": 429,
                        "status": "RESOURCE_EXHAUSTED",
                        "message": "You exceeded your current quota, please check your plan and"
                        " billing details. Please retry in 31.2s.",
                    }
                }
            ],
        ),
    ),
    (
        "quota of a minute or a day",
        answered(
            429,
            error_body(
                "Rate limit reached for gpt-4o-mini on requests per day (RPD): Limit 200, Used 200,"
                " Requested 1. Please try again in 7m12s.",
                type="requests",
                code="rate_limit_exceeded",
            ),
        ),
    ),
    ("rate limit", answered(429, error_body("Slow down.", type="tokens", code=None))),
    (
        "rate limit",
        answered(
            429,
            error_body("litellm.RateLimitError: AzureException", type="throttling", code="429"),
        ),
    ),
    ("rate limit", answered(429, "Too Many Requests", retry_after="7")),
    ("rate limit", answered(200, failed_response("rate_limit_exceeded", "Rate limit reached."))),
    ("rate limit", answered(200, {"error": {"code": 429, "message": "Provider is busy"}})),
    (
        "rate limit under another status",
        answered(503, error_body("Please reduce your request rate.", code="slow_down")),
    ),
    (
        "rate limit under another status",
        answered(500, error_body("litellm.RateLimitError: too fast")),
    ),
    (
        "one call is above the limit of a minute",
        answered(
            429,
            error_body(
                "Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit"
                " 3000, Requested 7400.",
                type="tokens",
                code="rate_limit_exceeded",
            ),
        ),
    ),
    # The set-up.
    (
        "model writes fewer tokens than asked for",
        answered(
            400,
            error_body(
                "max_tokens is too large: 12000. This model supports at most 4096 completion tokens"
            ),
        ),
    ),
    (
        "model writes fewer tokens than asked for",
        answered(
            400,
            error_body(
                "This model's maximum context length is 4096 tokens. However, you requested 4616"
                " tokens (1616 in the messages, 3000 in the completion)."
            ),
        ),
    ),
    (
        "unknown model",
        answered(
            404,
            error_body("The model `gpt-4o-mnii` does not exist.", code="model_not_found"),
        ),
    ),
    (
        "unknown model",
        answered(404, {"error": {"code": "DeploymentNotFound", "message": "No deployment."}}),
    ),
    (
        "model not available",
        answered(404, error_body("The model `qwen3` does not exist.", type="NotFoundError")),
    ),
    (
        "model not available",
        answered(404, error_body('model "qwen9" not found, try pulling it first')),
    ),
    (
        "no endpoint serves the request",
        answered(404, error_body("No endpoints found for acme/writer.", code=404)),
    ),
    ("model not available", answered(400, {"detail": "Invalid model name passed in model=x"})),
    (
        "parameter not accepted",
        answered(
            400,
            error_body(
                "Unsupported parameter: 'temperature' is not supported with this model.",
                param="temperature",
                code="unsupported_parameter",
            ),
        ),
    ),
    (
        "feature not supported",
        answered(
            400,
            error_body(
                "Invalid schema for response_format 'outline': In context=('properties', 'title'),"
                " 'minLength' is not permitted.",
                param="response_format",
            ),
        ),
    ),
    ("feature not supported", answered(400, {"error": "'response_format.type' must be 'text'"})),
    (
        "feature not supported",
        answered(400, error_body("The 'metadata' parameter is only allowed when 'store' is on.")),
    ),
    (
        "parameter refused",
        answered(
            422,
            {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "store"],
                        "msg": "Extra inputs are not permitted",
                        "input": "a text that was flagged",
                    }
                ]
            },
        ),
    ),
    ("unknown address", answered(404, {"detail": "Not Found"})),
    ("unknown address", answered(404, "404 page not found")),
    ("unknown address", answered(404, PAGE.format("404", "nginx"))),
    ("unknown address", answered(404, "")),
    ("unknown address", answered(404, error_body("Invalid URL (POST /v1/responsess)"))),
    (
        "unknown address",
        answered(404, {"error": {"code": "404", "message": "Resource not found"}}),
    ),
    ("no such method", answered(405, {"detail": "Method Not Allowed"})),
    ("no such method", answered(501, error_body("Unsupported method"))),
    (
        "API not offered",
        answered(400, error_body("The model does not support Responses API")),
    ),
    (
        "API not offered",
        answered(400, error_body("Responses API is enabled only for api-version 2025-03-01.")),
    ),
    ("page instead of an answer", answered(200, PAGE.format("Open WebUI", "Sign in"))),
    # The server.
    ("gateway time-out", answered(504, PAGE.format("504", "Gateway Time-out"))),
    ("gateway time-out", answered(524, "error code: 524")),
    ("gateway time-out", answered(408, error_body("Your request timed out", code=408))),
    ("time-out behind a gateway", answered(503, "upstream request timeout")),
    ("conflict, too early, or closed by the client", answered(409, error_body("Conflict"))),
    ("conflict, too early, or closed by the client", answered(425, "Too Early")),
    ("server error", answered(500, error_body("The server had an error.", type="server_error"))),
    ("server error", answered(502, PAGE.format("502", "Bad Gateway"))),
    ("server error", answered(503, error_body("Loading model", code=503))),
    ("server error", answered(529, error_body("Overloaded", type="overloaded_error"))),
    ("server error", answered(520, "error code: 520")),
    ("server error", answered(200, failed_response("server_error", "An error occurred."))),
    ("server error", answered(200, response_answer(status="failed", error=None))),
    ("server error", answered(200, {"error": {"code": 502, "message": "Provider returned error"}})),
    ("server error", answered(200, {"error": "something broke"})),
    ("server error", answered(200, {"detail": "Internal error"})),
    ("server error", answered(200, {"message": "try later", "code": "UNKNOWN"})),
    (
        "server error",
        answered(
            200,
            {
                "choices": [
                    {"error": {"code": 502, "message": "Upstream"}, "finish_reason": "error"}
                ]
            },
        ),
    ),
    ("rejected for an unknown reason", answered(400, error_body("Bad request"))),
    ("rejected for an unknown reason", answered(403, PAGE.format("Attention", "Blocked"))),
    ("rejected for an unknown reason", answered(404, error_body("Item x is gone."))),
    ("rejected for an unknown reason", answered(418, {})),
    ("error of an unknown status", answered(600, error_body("?"))),
    # Answers.
    ("answer", answered(200, response_answer(OUTLINE_JSON))),
    ("answer", answered(200, chat_answer(OUTLINE_JSON))),
    ("answer", answered(200, chat_answer([{"type": "text", "text": OUTLINE_JSON}]))),
    (
        "answer cut at its limit",
        answered(
            200,
            response_answer(
                status="incomplete", incomplete_details={"reason": "max_output_tokens"}
            ),
        ),
    ),
    ("answer cut at its limit", answered(200, chat_answer("", finish="length"))),
    (
        "refused by the model",
        answered(
            200,
            response_answer(
                output=[
                    {
                        "type": "message",
                        "content": [{"type": "refusal", "refusal": "I cannot help with that."}],
                    }
                ]
            ),
        ),
    ),
    ("refused by the model", answered(200, chat_answer(None, refusal="I cannot help."))),
    (
        "answer stopped by the content filter",
        answered(
            200,
            response_answer(status="incomplete", incomplete_details={"reason": "content_filter"}),
        ),
    ),
    (
        "answer stopped by the content filter",
        answered(200, chat_answer("", finish="content_filter")),
    ),
    ("queued, in progress or cancelled", answered(200, response_answer(status="queued"))),
    ("queued, in progress or cancelled", answered(200, response_answer(status="cancelled"))),
    ("billed answer without a text", answered(200, chat_answer(None))),
    ("billed answer without a text", answered(200, response_answer(output=None))),
    ("answer without a text", answered(200, response_answer(usage=None))),
    ("answer without a text", answered(200, {"choices": []})),
    ("answer without a text", answered(200, {"choices": [{"message": None}], "usage": None})),
    (
        "model wrote invalid JSON",
        answered(400, error_body("No JSON.", code="json_validate_failed")),
    ),
    ("unreadable answer", answered(200, "")),
    ("unreadable answer", answered(200, {"ok": True})),
    ("unreadable answer", answered(200, "not json")),
    ("unreadable answer", answered(302, "")),
]


@pytest.mark.parametrize(
    ("row", "result"), EXAMPLES, ids=[f"{row}-{number}" for number, (row, _) in enumerate(EXAMPLES)]
)
def test_example_matches_its_row(row: str, result: CallResult) -> None:
    assert classify_text(result, NOW).row == row


def test_every_row_has_an_example_and_its_own_name() -> None:
    names = [row.name for row in TEXT_OUTCOMES]
    assert len(names) == len(set(names))
    assert set(names) == {row for row, _ in EXAMPLES}


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (
            OutcomeKind.REQUEST_FAULT,
            {
                "flagged by moderation",
                "against the content policy",
                "input too long",
                "input longer than the context",
                "input alone longer than the context",
                "body too large",
            },
        ),
        (
            OutcomeKind.UNEXPLAINED,
            {"rejected for an unknown reason", "no endpoint serves the request"},
        ),
        (
            OutcomeKind.ANSWER_FAULT,
            {
                "answer cut at its limit",
                "refused by the model",
                "answer stopped by the content filter",
                "billed answer without a text",
                "model wrote invalid JSON",
            },
        ),
    ],
)
def test_only_these_rows_may_fail_a_job(kind: OutcomeKind, rows: set[str]) -> None:
    assert {row.name for row in TEXT_OUTCOMES if row.kind is kind} == rows


def test_unknown_status_does_the_least_harm() -> None:
    for status in range(400, 500):
        outcome = classify_text(answered(status, {"odd": 1}), NOW)
        assert outcome.kind is not OutcomeKind.REQUEST_FAULT or status == 413
    for status in range(500, 600):
        kind = classify_text(answered(status, {"odd": 1}), NOW).kind
        assert kind is (OutcomeKind.SETUP_FAULT if status == 501 else OutcomeKind.OUTAGE)


def test_calls_that_may_be_billed_are_in_doubt() -> None:
    doubtful = {row.name for row in TEXT_OUTCOMES if row.in_doubt}
    assert doubtful == {
        "no answer in time",
        "connection lost",
        "gateway time-out",
        "time-out behind a gateway",
        "queued, in progress or cancelled",
        "answer without a text",
        "unreadable answer",
    }


_NAMES = (
    *("error", "code", "type", "message", "detail", "status", "output", "content", "choices"),
    *("usage", "param", "metadata", "refusal", "text", "finish_reason", "incomplete_details"),
    *("innererror", "raw", "loc"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(_NAMES),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@given(
    st.integers(0, 999),
    _JSON,
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset-requests"]),
        st.text(max_size=30),
    ),
)
def test_no_answer_is_too_odd_to_classify(status: int, body: Any, headers: dict[str, str]) -> None:
    outcome = classify_text(CallResult(status=status, headers=headers, body=body), NOW)
    assert outcome.row
    assert outcome.kind is not OutcomeKind.ANSWER or status < 400


def test_deeply_nested_error_is_classified() -> None:
    body: dict[str, Any] = {"message": "deep"}
    for _ in range(950):
        body = {"error": body}
    assert classify_text(answered(200, body), NOW).kind is OutcomeKind.OUTAGE


def test_reason_can_be_saved_in_postgresql() -> None:
    outcome = classify_text(answered(500, error_body("broken \0 pipe")), NOW)
    assert outcome.reason == "server error: broken  pipe"
