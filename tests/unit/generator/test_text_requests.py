"""What is sent to which server, and what is left out once a server refuses it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from services.generator.blog.article import Outline
from services.generator.blog.prompts import largest_call_tokens
from services.generator.providers.openai.outcomes import classify_text
from services.generator.providers.openai.reasoning import ReasoningRoom, find_effort, reasoning_room
from services.generator.providers.openai.requests import (
    AnswerFormat,
    CallText,
    ServerFeatures,
    build_body,
    expect_features,
    narrow_features,
)
from services.generator.providers.outcomes.outcome import CallResult
from tests.support.text_accounts import make_text_account
from tests.support.text_answers import error_body

CALL = CallText(instructions="Plan.", data="{}", labels={"job": "j"}, max_output_tokens=3_000)
CHAT = ServerFeatures(api="chat")


def body_of(features: ServerFeatures, **account: Any) -> dict[str, Any]:
    return build_body(features, make_text_account(**account), CALL, Outline)[1]


def narrow(
    features: ServerFeatures, status: int, body: Any, *, sent_limit: int = 3_000
) -> ServerFeatures | None:
    result = CallResult(status=status, body=body)
    outcome = classify_text(result, datetime.now(UTC))
    return narrow_features(features, result, outcome, sent_limit=sent_limit)


def test_answers_are_not_kept_by_the_vendor_unless_allowed() -> None:
    features = ServerFeatures(api="responses")
    assert body_of(features)["store"] is False
    assert body_of(features, store=True)["store"] is True
    chat = expect_features(make_text_account(api="chat"))
    assert body_of(chat)["store"] is False
    assert "metadata" not in body_of(chat), "refused for an answer that is not kept"
    assert body_of(chat, store=True)["metadata"] == {"job": "j"}


def test_other_servers_are_not_told_about_keeping() -> None:
    chat = expect_features(make_text_account(api="chat", base_url="http://localhost:11434/v1"))
    body = body_of(chat)
    assert {"store", "metadata"}.isdisjoint(body)
    assert body["max_tokens"] == 3_000


def test_temperature_is_never_sent() -> None:
    for features in (CHAT, ServerFeatures(api="responses", effort="low")):
        assert "temperature" not in body_of(features)


def test_effort_has_its_place_in_each_api() -> None:
    assert body_of(ServerFeatures(api="responses", effort="low"))["reasoning"] == {"effort": "low"}
    assert body_of(replace(CHAT, effort="low"))["reasoning_effort"] == "low"
    assert {"reasoning", "reasoning_effort"}.isdisjoint(body_of(CHAT))


@pytest.mark.parametrize(
    ("model", "effort", "room"),
    [
        ("gpt-4o-mini", None, 0),
        ("gpt-5-chat-latest", None, 0),
        ("gpt-5-mini", "minimal", 3_000),
        ("openai/gpt-5-nano", "minimal", 3_000),
        ("gpt-5.1", "none", 0),
        ("gpt-5.2-2026-01-15", "none", 0),
        ("gpt-5-codex", "low", 4_000),
        ("gpt-5-pro", None, 8_000),
        ("o3-mini", "low", 4_000),
        ("o4-mini-2025-04-16", "low", 4_000),
        ("o1-preview", None, 8_000),
        ("gpt-oss:20b", "low", 4_000),
        ("acme/openhermes", None, 0),
    ],
)
def test_reasoning_models_get_the_least_effort_and_room(
    model: str, effort: str | None, room: int
) -> None:
    account = make_text_account(model=model)
    assert (find_effort(account), reasoning_room(account)) == (effort, room)


def test_settings_decide_over_the_name() -> None:
    account = make_text_account(model="house-model", reasoning_effort="high")
    assert (find_effort(account), reasoning_room(account)) == ("high", 16_000)
    account = make_text_account(model="gpt-5", reasoning_tokens=500)
    assert (find_effort(account), reasoning_room(account)) == ("minimal", 500)


def test_room_is_part_of_the_largest_call() -> None:
    plain = largest_call_tokens(make_text_account())
    assert largest_call_tokens(make_text_account(model="gpt-5")) == plain + 3_000


def test_room_grows_with_cuts_and_with_what_is_seen() -> None:
    room = ReasoningRoom(make_text_account(model="house-model"))
    assert [room.limit_output(700, cuts) for cuts in (0, 1, 2)] == [700, 1_400, 2_800]
    for _ in range(2):
        room.record_reasoning(uuid4(), 2_000)
    assert room.limit_output(700, 0) == 3_700
    for _ in range(50):
        room.record_reasoning(uuid4(), 400)
    assert room.limit_output(700, 0) == 1_300, "a long thought is forgotten"


def test_long_reasoning_of_one_job_raises_no_other_job_s_limit() -> None:
    room = ReasoningRoom(make_text_account(model="gpt-5"))
    poison = uuid4()
    for _ in range(5):
        room.record_reasoning(uuid4(), 400)
        room.record_reasoning(poison, 60_000)
    assert room.limit_output(3_000, 0) == 6_000


@pytest.mark.parametrize(
    ("account", "room"),
    [
        ({"model": "gpt-5"}, 6_000),
        ({"model": "gpt-5", "reasoning_tokens": 500}, 1_000),
        ({"model": "gpt-5", "reasoning_tokens": 0}, 0),
        ({"model": "gpt-5.1"}, 16_000),
        ({"model": "house-model"}, 16_000),
    ],
)
def test_room_grows_to_twice_the_configured_one(account: dict[str, Any], room: int) -> None:
    grown = ReasoningRoom(make_text_account(**account))
    for _ in range(2):
        grown.record_reasoning(uuid4(), 90_000)
    assert grown.limit_output(3_000, 0) == 3_000 + room


REFUSED_SCHEMA = error_body(
    "Invalid schema for response_format 'outline': 'minItems' is not permitted.",
    type="invalid_request_error",
    param="response_format",
)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, REFUSED_SCHEMA),
        (400, error_body("This response_format type is unavailable now")),
        (400, {"error": "'response_format.type' must be 'json_object' or 'text'"}),
        (400, error_body("This model does not support response format `json_schema`.")),
        (
            422,
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "response_format", "strict"]}]},
        ),
        (400, error_body("Unsupported parameter: 'text.format' is not supported with this model.")),
    ],
)
def test_format_becomes_weaker_until_the_instructions_hold_it(status: int, body: Any) -> None:
    weaker = narrow(CHAT, status, body)
    assert weaker == replace(CHAT, answer_format=AnswerFormat.JSON_MODE)
    sent = body_of(weaker)
    assert sent["response_format"] == {"type": "json_object"}
    assert '"headings"' in sent["messages"][0]["content"]
    weakest = narrow(weaker, status, body)
    assert weakest == replace(CHAT, answer_format=AnswerFormat.INSTRUCTIONS)
    assert "response_format" not in body_of(weakest)
    assert narrow(weakest, status, body) is None


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"detail": "Not Found"}),
        (404, ""),
        (405, {"detail": "Method Not Allowed"}),
        (404, error_body("No handler for this request.")),
        (404, "<html><body>404</body></html>"),
        (400, error_body("The model does not support Responses API")),
        (200, "<html><body>Welcome</body></html>"),
    ],
)
def test_auto_tries_chat_completions_where_there_are_no_responses(status: int, body: Any) -> None:
    auto = expect_features(make_text_account(api="auto"))
    changed = narrow(auto, status, body)
    assert changed is not None
    assert (changed.api, changed.may_change_api) == ("chat", False)
    assert narrow(changed, status, body) is None
    assert narrow(ServerFeatures(api="responses"), status, body) is None


def test_unknown_model_changes_no_api() -> None:
    auto = expect_features(make_text_account(api="auto"))
    body = error_body("The model `x` does not exist or you do not have access to it.")
    assert narrow(auto, 404, body | {"code": "model_not_found"}) is None


def test_refused_effort_becomes_the_least_that_is_listed_and_then_none() -> None:
    features = replace(CHAT, effort="minimal")
    listed = error_body(
        "Unsupported value: 'minimal' is not supported with the 'gpt-5.9' model. Supported values"
        " are: 'low', 'medium', and 'high'.",
        param="reasoning_effort",
        code="unsupported_value",
    )
    assert narrow(features, 400, listed) == replace(CHAT, effort="low")
    unknown = error_body("Unrecognized request argument supplied: reasoning_effort")
    assert narrow(features, 400, unknown) == CHAT
    assert narrow(CHAT, 400, unknown) is None


def test_output_limit_is_renamed_once() -> None:
    old = replace(CHAT, limit_field="max_tokens")
    refusal = error_body(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
        " 'max_completion_tokens' instead.",
        param="max_tokens",
        code="unsupported_parameter",
    )
    renamed = narrow(old, 400, refusal)
    assert renamed is not None
    assert body_of(renamed)["max_completion_tokens"] == 3_000
    assert narrow(renamed, 400, error_body("max_completion_tokens: unknown field")) is None


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 12000. This model supports at most 4096 completion tokens",
        "`max_completion_tokens` must be less than or equal to `4096`",
        "max_tokens: 12000 > 4096, which is the maximum allowed number of output tokens",
    ],
)
def test_output_limit_follows_the_model(words: str) -> None:
    lowered = narrow(CHAT, 400, error_body(words), sent_limit=12_000)
    assert lowered is not None
    assert lowered.output_limit == 4_096
    assert narrow(lowered, 400, error_body(words), sent_limit=4_096) is None


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_refused_labels_are_left_out(api: Any) -> None:
    features = ServerFeatures(api=api)
    body = error_body("The 'metadata' parameter is only allowed when 'store' is enabled.")
    without = narrow(features, 400, body)
    assert without is not None
    assert "metadata" not in body_of(without, store=True)
    extra = {"detail": [{"type": "extra_forbidden", "loc": ["body", "store"], "msg": "Extra"}]}
    without = narrow(features, 422, extra)
    assert without is not None
    assert "store" not in body_of(without)


@pytest.mark.parametrize(
    "body",
    [
        error_body("Unknown parameter: 'store'.", param="store"),
        error_body("Refused", param="body.store"),
        error_body("Unrecognized request argument supplied: store"),
        error_body("property 'store' is unsupported"),
        error_body('json: unknown field "store"'),
        error_body("store: Extra inputs are not permitted"),
        error_body("Additional properties are not allowed (`store` was unexpected)"),
    ],
)
def test_store_is_omitted_where_the_refusal_names_the_parameter(body: Any) -> None:
    other = ServerFeatures(api="responses")
    assert narrow(other, 400, body) == replace(other, omitted=frozenset({"store"}))


def test_openai_is_always_told_not_to_keep_answers() -> None:
    features = expect_features(make_text_account(base_url="https://api.openai.com/v1"))
    assert narrow(features, 400, error_body("Unknown parameter: 'store'.", param="store")) is None
    metadata = error_body("Unknown parameter: 'metadata'.", param="metadata")
    assert narrow(features, 400, metadata) == replace(features, omitted=frozenset({"metadata"}))


@pytest.mark.parametrize("param", ["input", None])
@pytest.mark.parametrize(
    "words",
    [
        "Invalid input: unexpected character in the description of the store",
        "Invalid value: the metadata of the store is not supported",
        "Invalid input: the reasoning and the effort of the writer must be plain",
        "Invalid input: unexpected word in the schema of the shop",
    ],
)
def test_everyday_words_of_a_refusal_change_no_call(words: str, param: str | None) -> None:
    features = ServerFeatures(api="responses", effort="low")
    assert narrow(features, 400, error_body(words, param=param)) is None
    chat = replace(CHAT, effort="low")
    assert narrow(chat, 400, error_body(words, param=param)) is None


@pytest.mark.parametrize(
    "words",
    [
        "Invalid 'input': the 'store' is unknown",
        "Invalid input: unexpected response_format, json_schema or max_tokens",
        "Invalid input: max_tokens of at most 512",
        "Invalid input: reasoning_effort",
    ],
)
def test_refusal_of_another_parameter_changes_no_call(words: str) -> None:
    features = replace(CHAT, effort="low", limit_field="max_tokens")
    for param in ("messages[1].content", "input[0].content[0].text"):
        assert narrow(features, 400, error_body(words, param=param)) is None


@pytest.mark.parametrize(
    "words",
    [
        "Model grok does not support parameter reasoningEffort.",
        "This model does not support reasoning",
        "Unknown parameter: 'reasoning.effort'.",
        "Unrecognized request argument supplied: reasoning",
    ],
)
def test_effort_is_omitted_where_the_words_name_it(words: str) -> None:
    assert narrow(replace(CHAT, effort="low"), 400, error_body(words)) == CHAT


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, error_body("Invalid API key: unknown schema")),
        (429, error_body("Unsupported burst of response_format calls")),
        (500, error_body("Unexpected error in the schema service")),
        (400, error_body("Your input is not supported by policy")),
        (404, error_body("The model `x` does not exist")),
    ],
)
def test_other_refusals_leave_the_features(status: int, body: Any) -> None:
    assert narrow(replace(CHAT, effort="low"), status, body) is None
