"""Each row of the image tables has an example; whatever else is answered, something matches."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.providers.content.image import draw_image
from services.generator.providers.outcomes.outcome import CallResult, OutcomeKind, TransportFailure
from services.generator.providers.replicate.image_files import MAX_IMAGE_BYTES
from services.generator.providers.replicate.outcomes import (
    CREATION_OUTCOMES,
    FILE_OUTCOMES,
    PREDICTION_OUTCOMES,
    READ_OUTCOMES,
    classify,
)
from tests.support.json_values import json_values

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
TABLES = {
    "creation": CREATION_OUTCOMES,
    "read": READ_OUTCOMES,
    "prediction": PREDICTION_OUTCOMES,
    "file": FILE_OUTCOMES,
}
LOW_CREDIT = (
    "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per"
    " minute with a burst of 1 requests while you have less than $5.0 in credit. Your rate limit"
    " resets in ~8s."
)
ANSWER, OUTAGE, THROTTLED = OutcomeKind.ANSWER, OutcomeKind.OUTAGE, OutcomeKind.THROTTLED
REQUEST, UNUSABLE = OutcomeKind.REQUEST_FAULT, OutcomeKind.ANSWER_FAULT
ACCOUNT, SETUP, UNEXPLAINED = (
    OutcomeKind.ACCOUNT_FAULT,
    OutcomeKind.SETUP_FAULT,
    OutcomeKind.UNEXPLAINED,
)
PNG = draw_image("a teapot")


def answer(status: int, body: Any = None, **headers: str) -> CallResult:
    return CallResult(status=status, body=body, headers=headers)


def lost(failure: TransportFailure) -> CallResult:
    return CallResult(failure=failure, detail="ReadError")


def failed(error: Any) -> CallResult:
    return answer(200, {"id": "p", "status": "failed", "error": error})


def ended(status: str, **fields: Any) -> CallResult:
    return answer(200, {"id": "p", "status": status, **fields})


CREATIONS = [
    ("creation served", ANSWER, answer(201, {"id": "p", "status": "starting"})),
    ("creation served", ANSWER, answer(200, {"id": "p", "status": "brewing"})),
    ("creation: no connection", OUTAGE, lost(TransportFailure.UNREACHABLE)),
    ("creation: no answer in time", OUTAGE, lost(TransportFailure.TIMEOUT)),
    ("creation: connection lost", OUTAGE, lost(TransportFailure.LOST)),
    ("creation: answer without an id", OUTAGE, answer(200, "<html>Sign in to the Wi-Fi</html>")),
    ("creation: answer without an id", OUTAGE, answer(201, {"id": None, "status": "starting"})),
    ("creation: token refused", ACCOUNT, answer(401, {"title": "Unauthenticated"})),
    ("creation: no credit left", ACCOUNT, answer(402, {"title": "Insufficient credit"})),
    (
        "creation: throttled, no credit left",
        ACCOUNT,
        answer(429, {"detail": "Monthly spend limit reached"}),
    ),
    ("creation: throttled", THROTTLED, answer(429, {"detail": LOW_CREDIT, "retry_after": 8})),
    ("creation: throttled", THROTTLED, answer(429, "slow down")),
    (
        "creation: flagged by moderation",
        REQUEST,
        answer(403, {"detail": "The prompt was flagged by our moderation"}),
    ),
    (
        "creation: flagged by moderation",
        REQUEST,
        answer(422, {"detail": "NSFW prompts are not accepted"}),
    ),
    (
        "creation: flagged by moderation",
        REQUEST,
        answer(403, {"status": "error", "error": {"message": "Input flagged: violence"}}),
    ),
    ("creation: account rejected", ACCOUNT, answer(403, {"detail": "Forbidden"})),
    ("creation: no such model", SETUP, answer(404, {"detail": "not found"})),
    ("creation: method refused", SETUP, answer(405, {"detail": "Method not allowed"})),
    ("creation: request too large", REQUEST, answer(413, "Payload Too Large")),
    (
        "creation: model or version refused",
        SETUP,
        answer(422, {"detail": "The specified version does not exist (or you lack permission)"}),
    ),
    (
        "creation: prompt too long",
        REQUEST,
        answer(422, {"detail": "prompt: String should have at most 500 characters"}),
    ),
    (
        "creation: refused while overloaded",
        OUTAGE,
        answer(422, {"detail": "Service is currently unavailable due to high demand."}),
    ),
    (
        "creation: input refused",
        UNEXPLAINED,
        answer(422, {"title": "Input validation failed", "detail": "aspect_ratio: bad value"}),
    ),
    ("creation: conflict or early time-out", OUTAGE, answer(409, {"detail": "Conflict"})),
    ("creation: gateway time-out", OUTAGE, answer(504, "<html>Gateway Time-out</html>")),
    ("creation: server error", OUTAGE, answer(502, "<html>Bad gateway</html>")),
    ("creation: server error", OUTAGE, answer(529, {"error": {"message": "overloaded"}})),
    ("creation: redirected", SETUP, answer(308, "", location="https://example.com")),
    ("creation: any other answer", UNEXPLAINED, answer(418, "I am a teapot")),
]
READS = [
    ("read served", ANSWER, ended("pondering")),
    ("read: no answer", OUTAGE, lost(TransportFailure.UNREACHABLE)),
    ("read: no answer", OUTAGE, lost(TransportFailure.TIMEOUT)),
    ("read: no answer", OUTAGE, lost(TransportFailure.LOST)),
    ("read: throttled", THROTTLED, answer(429, {"retry_after": 2})),
    ("read: prediction gone", UNUSABLE, answer(404, {"detail": "not found"})),
    ("read: token refused", ACCOUNT, answer(401, {"detail": "no token"})),
    ("read: account rejected", ACCOUNT, answer(403, {"detail": "no"})),
    ("read: server error", OUTAGE, answer(500, "<html>")),
    ("read: any other answer", OUTAGE, answer(200, [])),
    ("read: any other answer", OUTAGE, answer(422, {"detail": "?"})),
]
PREDICTIONS = [
    ("prediction succeeded", ANSWER, ended("succeeded", output=None)),
    (
        "prediction succeeded, output deleted",
        UNUSABLE,
        ended("succeeded", output=None, data_removed=True),
    ),
    (
        "prediction failed: flagged",
        REQUEST,
        failed("NSFW content detected. Try running it again, or try a different prompt."),
    ),
    (
        "prediction failed: flagged",
        REQUEST,
        failed("The input or output was flagged as sensitive. Try again. (E005) (4Kd1xQ)"),
    ),
    ("prediction failed: prompt too long", REQUEST, failed("the prompt is too long")),
    *(
        ("prediction failed: passing", OUTAGE, failed(text))
        for text in (
            "Prediction interrupted; please retry (code: PA)",
            "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 39.4 GiB total capacity)",
            "Director: unexpected error handling prediction (E9243)",
            "E1001: the model ran out of memory",
            "E6716: timed out while starting the prediction",
            "ModelRateLimitError: the service has high demand. Please try again later. (E003)",
            "Failed to upload the output: connection reset by peer",
            {"type": "server_error", "message": "internal server error"},
        )
    ),
    (
        "prediction failed: model or version refused",
        SETUP,
        failed("This version has been deprecated"),
    ),
    ("prediction failed: input refused", UNEXPLAINED, failed("width must be divisible by 8")),
    ("prediction failed: input refused", UNEXPLAINED, failed("Invalid seed")),
    ("prediction failed: unknown error", UNUSABLE, failed("list index out of range")),
    ("prediction failed: unknown error", UNUSABLE, failed(None)),
    ("prediction aborted", OUTAGE, ended("aborted")),
    ("prediction canceled", OUTAGE, ended("cancelled")),
    ("prediction past its deadline", OUTAGE, ended("starting")),
    ("prediction past its deadline", OUTAGE, CallResult()),
]
FILES = [
    ("file served", ANSWER, answer(200, PNG, **{"content-type": "application/octet-stream"})),
    ("file: no answer", OUTAGE, lost(TransportFailure.LOST)),
    ("file: address expired", UNUSABLE, answer(403, b"<Error>AccessDenied</Error>")),
    ("file: throttled", THROTTLED, answer(429, b"")),
    ("file: server error", OUTAGE, answer(503, b"")),
    ("file: over 16 MiB", UNUSABLE, answer(200, PNG + bytes(MAX_IMAGE_BYTES))),
    ("file: empty", UNUSABLE, answer(200, b"", **{"content-type": "image/png"})),
    ("file: cut off", UNUSABLE, answer(200, PNG[:-20], **{"content-type": "image/png"})),
    ("file: no image", UNUSABLE, answer(200, b"<html>", **{"content-type": "image/png"})),
    ("file: no image", UNUSABLE, answer(200, b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
    ("file: no image", UNUSABLE, answer(200, b'{"error": "gone"}')),
    ("file: any other answer", UNUSABLE, answer(400, b"bad request")),
]
EXAMPLES = {"creation": CREATIONS, "read": READS, "prediction": PREDICTIONS, "file": FILES}
IN_DOUBT = {
    "creation: no answer in time",
    "creation: connection lost",
    "creation: answer without an id",
    "creation: gateway time-out",
}


@pytest.mark.parametrize(
    ("table", "row", "kind", "result"),
    [(table, *example) for table, examples in EXAMPLES.items() for example in examples],
)
def test_example_matches_its_row(
    table: str, row: str, kind: OutcomeKind, result: CallResult
) -> None:
    outcome = classify(TABLES[table], result, NOW)
    assert (outcome.row, outcome.kind) == (row, kind)
    assert outcome.in_doubt == (row in IN_DOUBT)
    assert outcome.code.startswith("replicate-")


def test_every_row_has_an_example_and_its_own_name() -> None:
    names = [row.name for table in TABLES.values() for row in table]
    assert len(set(names)) == len(names)
    assert {row for examples in EXAMPLES.values() for row, _, _ in examples} == set(names)


def test_delay_of_the_body_is_read() -> None:
    outcome = classify(
        CREATION_OUTCOMES, answer(429, {"detail": LOW_CREDIT, "retry_after": 9}), NOW
    )
    assert outcome.delay == 9
    assert classify(CREATION_OUTCOMES, answer(429, {"detail": LOW_CREDIT}), NOW).delay == 8


def test_reason_keeps_the_words_of_the_provider_short() -> None:
    outcome = classify(CREATION_OUTCOMES, answer(500, "<html>" + "x" * 9_000), NOW)
    assert outcome.reason.startswith("creation: server error: 500 <html>")
    assert len(outcome.reason) < 400


@settings(max_examples=300)
@given(
    status=st.integers(min_value=0, max_value=999),
    body=json_values() | st.binary(),
    headers=st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset"]), st.text()),
    failure=st.none() | st.sampled_from(TransportFailure),
)
def test_every_result_has_an_outcome(
    status: int, body: Any, headers: dict[str, str], failure: TransportFailure | None
) -> None:
    result = CallResult(status=status, body=body, headers=headers, failure=failure)
    for table in TABLES.values():
        assert classify(table, result, NOW).row
