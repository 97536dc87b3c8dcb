"""The stand-in for OpenAI refuses what OpenAI refuses, and fails in every scripted form."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI
from openai.types.responses import Response
from openai.types.shared_params import Metadata

from sandbox.providers.bucket import go_duration
from tests.support.fake_providers import StandIn, start_fake_providers

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}
FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "name": "outline",
    "schema": SCHEMA,
    "strict": True,
}
CHAT_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "outline", "schema": SCHEMA, "strict": True},
}
RESPONSES = "/v1/responses"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": '{"title": "Tea"} as json'}]
KEY = {"authorization": "Bearer sk-x"}


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    """Start a stand-in of its own: tests change its limits and options."""
    with start_fake_providers(OPENAI_RPM="60000", OPENAI_TPM="100000000") as both:
        yield both.openai


@pytest.fixture
async def client(standin: StandIn) -> AsyncIterator[AsyncOpenAI]:
    url = f"{standin.url}/v1"
    async with AsyncOpenAI(api_key="sk-x", base_url=url, max_retries=0, timeout=10) as opened:
        yield opened


def post(standin: StandIn, path: str, **body: Any) -> httpx.Response:
    """Make a call. A parameter whose value is None is left out."""
    default: dict[str, Any] = {"model": "gpt-4o-mini"}
    default |= {"input": "Tea"} if path.endswith("responses") else {"messages": MESSAGES}
    given = {name: value for name, value in (default | body).items() if value is not None}
    return httpx.post(f"{standin.url}{path}", json=given, headers=KEY)


def metadata_of(job: object, step: str = "outline") -> Metadata:
    return {"job": str(job), "step": step}


async def write(client: AsyncOpenAI, job: object, **changes: Any) -> Response:
    body = {"model": "gpt-4o-mini", "input": "Tea", "metadata": metadata_of(job)} | changes
    response: Response = await client.responses.create(**body)
    return response


TOO_MANY = {f"k{number}": "v" for number in range(17)}
ASTRAY: list[tuple[str, dict[str, Any], str, str | None, str]] = [
    (RESPONSES, {"colour": 1}, "unknown_parameter", "colour", "Unknown parameter: 'colour'."),
    (RESPONSES, {"seed": 1}, "unknown_parameter", "seed", "Unknown parameter: 'seed'."),
    (RESPONSES, {"text": {"colour": 1}}, "unknown_parameter", "text.colour", "Unknown parameter"),
    (RESPONSES, {"max_tokens": 99}, "unsupported_parameter", "max_tokens", "has moved to"),
    (RESPONSES, {"messages": MESSAGES}, "unsupported_parameter", "messages", "'input'"),
    (RESPONSES, {"response_format": {}}, "unsupported_parameter", "response_format", "text.format"),
    (RESPONSES, {"input": None}, "missing_required_parameter", "input", "must be provided"),
    (RESPONSES, {"model": None}, "missing_required_parameter", "model", "'model'"),
    (RESPONSES, {"model": 7}, "invalid_type", "model", "expected a string, but got an integer"),
    (RESPONSES, {"input": 7}, "invalid_type", "input", "expected one of a string or an array"),
    (RESPONSES, {"store": "no"}, "invalid_type", "store", "expected a boolean"),
    (RESPONSES, {"temperature": "hot"}, "invalid_type", "temperature", "expected a decimal"),
    (RESPONSES, {"temperature": 3}, "decimal_above_max_value", "temperature", "<= 2"),
    (
        RESPONSES,
        {"max_output_tokens": 15},
        "integer_below_min_value",
        "max_output_tokens",
        "Expected a value >= 16, but got 15 instead.",
    ),
    (RESPONSES, {"max_output_tokens": 99.5}, "invalid_type", "max_output_tokens", "an integer"),
    (RESPONSES, {"metadata": TOO_MANY}, "object_above_max_properties", "metadata", "17"),
    (RESPONSES, {"metadata": {"k" * 65: "v"}}, "property_name_above_max_length", "metadata", "64"),
    (RESPONSES, {"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k", "512"),
    (RESPONSES, {"metadata": {"k": 1}}, "invalid_type", "metadata.k", "expected a string"),
    (
        RESPONSES,
        {"text": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        "missing_required_parameter",
        "text.format.name",
        "Missing required parameter: 'text.format.name'.",
    ),
    (
        RESPONSES,
        {"reasoning": {"effort": "low"}},
        "unsupported_parameter",
        "reasoning.effort",
        "Unsupported parameter: 'reasoning.effort' is not supported with this model.",
    ),
    (
        RESPONSES,
        {"model": "gpt-5-mini", "temperature": 0.2},
        "unsupported_parameter",
        "temperature",
        "Unsupported parameter: 'temperature' is not supported with this model.",
    ),
    (RESPONSES, {"model": "o4-mini", "top_p": 0.5}, "unsupported_parameter", "top_p", "'top_p'"),
    (
        RESPONSES,
        {"model": "gpt-5.1", "reasoning": {"effort": "minimal"}},
        "unsupported_value",
        "reasoning.effort",
        "Unsupported value: 'minimal' is not supported with the 'gpt-5.1' model."
        " Supported values are: 'none', 'low', 'medium', and 'high'.",
    ),
    (
        RESPONSES,
        {"model": "o4-mini", "reasoning": {"effort": "minimal"}},
        "unsupported_value",
        "reasoning.effort",
        "'low', 'medium', and 'high'",
    ),
    (
        RESPONSES,
        {"model": "gpt-5", "reasoning": {"effort": "none"}},
        "unsupported_value",
        "reasoning.effort",
        "'minimal', 'low', 'medium', and 'high'",
    ),
    (CHAT, {"max_output_tokens": 99}, "unknown_parameter", "max_output_tokens", "Unknown"),
    (CHAT, {"input": "x"}, "unknown_parameter", "input", "Unknown parameter: 'input'."),
    (CHAT, {"messages": None}, "missing_required_parameter", "messages", "'messages'"),
    (CHAT, {"messages": []}, "empty_array", "messages", "empty array"),
    (
        CHAT,
        {"messages": [{"role": "boss", "content": "x"}]},
        "invalid_value",
        "messages[0].role",
        "Invalid value: 'boss'.",
    ),
    (
        CHAT,
        {"model": "gpt-5-mini", "max_tokens": 99},
        "unsupported_parameter",
        "max_tokens",
        "Use 'max_completion_tokens' instead.",
    ),
    (CHAT, {"max_tokens": 20_000}, "invalid_value", "max_tokens", "is too large: 20000"),
    (CHAT, {"reasoning_effort": "low"}, "unsupported_parameter", "reasoning_effort", "model"),
    (
        CHAT,
        {"model": "gpt-5.1", "reasoning_effort": "minimal"},
        "unsupported_value",
        "reasoning_effort",
        "'reasoning_effort' does not support 'minimal' with this model.",
    ),
]


@pytest.mark.parametrize(
    ("path", "body", "code", "param", "message"),
    ASTRAY,
    ids=[f"{path[4:8]}-{str(body)[:40]}" for path, body, *_ in ASTRAY],
)
def test_call_with_wrong_parameter_is_refused(
    standin: StandIn, path: str, body: dict[str, Any], code: str, param: str, message: str
) -> None:
    billed = standin.bills()
    answer = post(standin, path, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["code"], error["param"]) == (code, param)
    assert message in error["message"]
    assert standin.bills() == billed
    assert standin.refused()[code] > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (RESPONSES, {"temperature": 0.2, "top_p": 0.9}),
        (RESPONSES, {"model": "gpt-5.1", "temperature": 0.2}),  # it does not reason by default
        (RESPONSES, {"model": "gpt-5.1", "reasoning": {"effort": "none"}}),
        (RESPONSES, {"model": "gpt-5", "reasoning": {"effort": "minimal"}}),
        (RESPONSES, {"model": "gpt-4o-mini-2024-07-18", "max_output_tokens": 16}),
        (RESPONSES, {"metadata": {"k" * 64: "v" * 512}, "store": False}),
        (RESPONSES, {"input": [{"role": "user", "content": "Tea"}]}),
        (RESPONSES, {"text": {"format": FORMAT, "verbosity": "low"}}),
        (CHAT, {"max_tokens": 99, "seed": 1, "temperature": 0}),
        (CHAT, {"model": "gpt-5-mini", "max_completion_tokens": 9_000}),
        (CHAT, {"model": "o4-mini", "reasoning_effort": "low"}),
        (CHAT, {"metadata": {"job": "j"}, "store": True}),
    ],
    ids=str,
)
def test_call_in_order_is_answered(standin: StandIn, path: str, body: dict[str, Any]) -> None:
    answer = post(standin, path, **body)
    assert answer.status_code == 200, answer.text


async def test_strict_schema_is_refused_in_the_reported_words(
    client: AsyncOpenAI, standin: StandIn
) -> None:
    title = {"type": "string", "minLength": 1}
    schema = SCHEMA | {"properties": {"title": title}}
    with pytest.raises(openai.BadRequestError) as refused:
        await write(client, uuid4(), text={"format": FORMAT | {"schema": schema}})
    assert refused.value.code == "invalid_json_schema"
    assert refused.value.type == "invalid_request_error"
    assert refused.value.param == "text.format.schema"
    assert (
        "Invalid schema for response_format 'outline': In context=('properties', 'title'),"
        " 'minLength' is not permitted." in str(refused.value)
    )
    relaxed = FORMAT | {"schema": schema, "strict": False}
    assert (await write(client, uuid4(), text={"format": relaxed})).output_text
    wrapped = {"name": "outline", "schema": schema, "strict": True}
    chat = {"type": "json_schema", "json_schema": wrapped}
    assert post(standin, CHAT, response_format=chat).status_code == 400


def test_array_bounds_are_refused_when_the_option_says_so(standin: StandIn) -> None:
    titles = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    schema = SCHEMA | {"properties": {"title": titles}}
    body = {"text": {"format": FORMAT | {"schema": schema}}}
    assert post(standin, RESPONSES, **body).status_code == 200
    with standin.options(refuse_array_bounds=True):
        answer = post(standin, RESPONSES, **body)
    assert answer.status_code == 400
    assert "'minItems' is not permitted" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
def test_unknown_model_is_not_found(standin: StandIn, path: str) -> None:
    answer = post(standin, path, model="gpt-nine")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "model_not_found")
    assert error["message"].startswith("The model `gpt-nine` does not exist")
    with standin.options(unknown_model_status=400):
        answer = post(standin, path, model="gpt-nine")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_found")
    with standin.options(models=["gpt-nine"]):
        assert post(standin, path, model="gpt-nine").status_code == 200


@pytest.mark.parametrize("key", ["", "sk-wrong", "sk-revoked-1"])
def test_wrong_key_is_refused(standin: StandIn, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    for method, path in (("POST", RESPONSES), ("POST", CHAT), ("GET", "/v1/models")):
        answer = httpx.request(method, f"{standin.url}{path}", json={}, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_models_are_listed_and_found(client: AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert {"gpt-4o-mini", "gpt-4.1-mini", "gpt-5", "gpt-5.1", "o4-mini"} <= set(names)
    assert (await client.models.retrieve("gpt-5-mini")).id == "gpt-5-mini"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-nine")


async def test_store_and_other_parameters_are_recorded(
    client: AsyncOpenAI, standin: StandIn
) -> None:
    job = uuid4()
    await write(client, job, store=False, max_output_tokens=100)
    (call,) = standin.calls(job)
    assert (call["path"], call["step"], call["status"]) == (RESPONSES, "outline", 200)
    assert call["parameters"]["store"] is False
    assert call["parameters"]["max_output_tokens"] == 100
    assert "input" not in call["parameters"]


async def test_reasoning_is_spent_out_of_the_limit_and_billed(
    client: AsyncOpenAI, standin: StandIn
) -> None:
    job = uuid4()
    answer = await write(client, job, model="gpt-5-mini", max_output_tokens=700)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == ""
    assert [item.type for item in answer.output] == ["reasoning"]
    assert answer.usage is not None
    assert answer.usage.output_tokens == 700
    assert answer.usage.output_tokens_details.reasoning_tokens == 700
    assert standin.bill(job)["tokens"] == answer.usage.total_tokens

    enough = await write(client, job, model="gpt-5-mini", max_output_tokens=9_000)
    assert enough.status == "completed"
    assert [item.type for item in enough.output] == ["reasoning", "message"]


@pytest.mark.parametrize(
    ("effort", "least", "most"),
    [("minimal", 0, 60), ("low", 300, 500), ("medium", 1_500, 2_500), ("high", 4_500, 7_500)],
)
async def test_reasoning_grows_with_the_effort(
    client: AsyncOpenAI, effort: str, least: int, most: int
) -> None:
    answer = await write(client, uuid4(), model="gpt-5", reasoning={"effort": effort})
    assert answer.usage is not None
    assert least <= answer.usage.output_tokens_details.reasoning_tokens <= most


async def test_reasoning_is_scripted_for_a_job(client: AsyncOpenAI, standin: StandIn) -> None:
    job = uuid4()
    standin.script({"kind": "reasoning", "job": str(job), "tokens": 990})
    cut = await write(
        client, job, model="gpt-5-mini", max_output_tokens=1_008, text={"format": FORMAT}
    )
    assert cut.status == "incomplete"
    assert 0 < len(cut.output_text) < 50
    assert cut.usage is not None
    assert cut.usage.output_tokens_details.reasoning_tokens == 990
    with standin.options(reasoning_tokens=5):
        one = await write(client, job, model="gpt-5-mini")
    assert one.usage is not None
    assert one.usage.output_tokens_details.reasoning_tokens == 5


async def test_chat_completion_has_structured_content_and_usage(
    client: AsyncOpenAI, standin: StandIn
) -> None:
    job = uuid4()
    create: Any = client.chat.completions.create
    common: dict[str, Any] = {"messages": MESSAGES, "extra_headers": {"X-Blogstream-Job": str(job)}}
    answer = await create(model="gpt-4o-mini", response_format=CHAT_FORMAT, **common)
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert json.loads(choice.message.content or "").keys() == {"title"}
    assert choice.message.refusal is None
    assert answer.usage is not None
    assert standin.bill(job) == {
        "calls": 1,
        "tokens": answer.usage.total_tokens,
        "steps": {"outline": 1},
    }
    reasoned = await create(model="gpt-5-mini", max_completion_tokens=500, **common)
    assert reasoned.choices[0].finish_reason == "length"
    assert reasoned.choices[0].message.content == ""
    assert reasoned.usage is not None
    assert reasoned.usage.completion_tokens_details is not None
    assert reasoned.usage.completion_tokens_details.reasoning_tokens == 500


def test_json_mode_needs_the_word_and_follows_the_prompt(standin: StandIn) -> None:
    mode = {"type": "json_object"}
    refused = post(
        standin, CHAT, response_format=mode, messages=[{"role": "user", "content": "Tea"}]
    )
    assert refused.status_code == 400
    assert "'messages' must contain the word 'json'" in refused.json()["error"]["message"]
    asked = f'{{"title": "Tea"}} Answer with JSON of this schema: {json.dumps(SCHEMA)}'
    answer = post(
        standin, CHAT, response_format=mode, messages=[{"role": "user", "content": asked}]
    )
    content = json.loads(answer.json()["choices"][0]["message"]["content"])
    assert content.keys() == {"title"}
    assert post(standin, RESPONSES, text={"format": mode}).status_code == 400


def test_chat_completion_is_filtered_or_declined(standin: StandIn) -> None:
    job = str(uuid4())
    standin.script({"kind": "content_filter", "job": job}, {"kind": "refusal", "job": job})
    meta = {"metadata": {"job": job}, "store": True}
    filtered = post(standin, CHAT, **meta).json()["choices"][0]
    assert filtered["finish_reason"] == "content_filter"
    refusal = post(standin, CHAT, **meta).json()["choices"][0]["message"]
    assert refusal["content"] is None
    assert "can't help" in refusal["refusal"]
    assert standin.bill(job)["calls"] == 2


def test_chat_metadata_needs_store(standin: StandIn) -> None:
    answer = post(standin, CHAT, metadata={"job": "j"})
    assert answer.status_code == 400
    text = "The 'metadata' parameter is only allowed when 'store' is enabled."
    assert answer.json()["error"]["message"] == text


@pytest.mark.parametrize("status", [404, 405])
def test_responses_route_can_be_absent(standin: StandIn, status: int) -> None:
    with standin.options(responses_status=status):
        answer = post(standin, RESPONSES)
        assert answer.status_code == status
        assert "error" not in answer.json()
        assert post(standin, CHAT).status_code == 200
    with standin.options(chat_status=status):
        assert post(standin, CHAT).status_code == status


async def test_azure_addresses_need_key_deployment_and_version(standin: StandIn) -> None:
    job = str(uuid4())
    async with AsyncAzureOpenAI(
        api_key="k", azure_endpoint=standin.url, api_version="2025-04-01-preview", max_retries=0
    ) as azure:
        answer = await azure.chat.completions.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Tea"}],
            extra_headers={"X-Blogstream-Job": job},
        )
        assert answer.choices[0].message.content
        with pytest.raises(openai.NotFoundError) as missing:
            await azure.chat.completions.create(
                model="elsewhere", messages=[{"role": "user", "content": "Tea"}]
            )
    assert missing.value.code == "DeploymentNotFound"
    assert standin.bill(job)["calls"] == 1


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/openai/deployments/gpt-4o-mini/chat/completions", {"api-key": "k"}, 404),
        ("/openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-10-21", {}, 401),
        (
            "/openai/deployments/gpt-4o-mini/chat/completions?api-version=2024-10-21",
            {"api-key": "wrong"},
            401,
        ),
        ("/openai/v1/chat/completions", {"api-key": "k"}, 200),
        ("/openai/v1/responses", {"api-key": "k"}, 200),
        ("/openai/v1/responses", {}, 401),
    ],
)
def test_azure_gateway_checks_calls(
    standin: StandIn, path: str, headers: dict[str, str], status: int
) -> None:
    texts = {"input": "Tea"} if path.endswith("responses") else {"messages": MESSAGES}
    body = texts if "deployments" in path else texts | {"model": "gpt-4o-mini"}
    answer = httpx.post(f"{standin.url}{path}", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["error"].keys() == {"code", "message"}


LIMIT_STYLES: list[tuple[str, set[str], str | None, str]] = [
    ("full", {"retry-after", "x-ratelimit-limit-requests"}, "rate_limit_exceeded", "requests"),
    ("plain", set(), "rate_limit_exceeded", "requests"),
    ("retry-after", {"retry-after"}, "rate_limit_exceeded", "requests"),
    ("reset", {"x-ratelimit-reset-requests"}, "rate_limit_exceeded", "requests"),
    ("insufficient_quota", set(), None, "insufficient_quota"),
    ("code-429", set(), "429", "throttling_error"),
]


@pytest.mark.parametrize(
    ("style", "headers", "code", "kind"), LIMIT_STYLES, ids=[row[0] for row in LIMIT_STYLES]
)
def test_lowered_limit_is_reported_in_each_form(
    standin: StandIn, style: str, headers: set[str], code: str | None, kind: str
) -> None:
    with standin.limits(requests=15, style=style):
        answers = [post(standin, RESPONSES) for _ in range(17)]
    assert [answer.status_code for answer in answers].count(200) == 15
    limited = answers[-1]
    error = limited.json()["error"]
    assert (limited.status_code, error["code"], error["type"]) == (429, code, kind)
    named = {name for name in limited.headers if name.startswith(("retry-", "x-ratelimit"))}
    assert headers <= named
    assert style == "full" or named == headers


def test_daily_limit_names_hours_and_holds(standin: StandIn) -> None:
    with standin.limits(requests=15, style="day", wait_s=18_720):
        answers = [post(standin, RESPONSES) for _ in range(17)]
        limited = answers[-1]
        assert limited.status_code == 429
        message = limited.json()["error"]["message"]
        assert "on requests per day (RPD): Limit 15, Used 15, Requested 1." in message
        assert "Please try again in 5h1" in message
        assert limited.headers["x-ratelimit-reset-requests"].startswith("5h1")
        assert "retry-after" not in limited.headers
    with standin.limits(requests_per_day=2):
        statuses = [post(standin, RESPONSES).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_durations_have_hours() -> None:
    durations = {0.008: "8ms", 1: "1s", 360: "6m0s", 18_720: "5h12m0s", 3_600: "1h0m0s"}
    assert {seconds: go_duration(seconds) for seconds in durations} == durations


def test_unknown_limit_fault_and_option_are_refused(standin: StandIn) -> None:
    for endpoint, content in (
        ("limits", {"request": 15}),
        ("limits", {"style": "odd"}),
        ("options", {"models": 7}),
        ("faults", [{"kind": "odd"}]),
        ("faults", [{"kind": "429", "often": 2}]),
    ):
        answer = httpx.post(f"{standin.url}/standin/{endpoint}", json=content)
        assert answer.status_code == 422, answer.text


SCRIPTED: list[tuple[dict[str, Any], int, bytes]] = [
    ({"status": 200, "body": {"error": {"message": "x"}}}, 200, b'{"error":{"message":"x"}}'),
    ({"status": 403, "body": {"error": None}, "headers": {"X-A": "b"}}, 403, b'{"error":null}'),
    ({"status": 502, "body": "<html>Bad gateway</html>"}, 502, b"<html>Bad gateway</html>"),
    ({"bodyText": '{"output": nul'}, 200, b'{"output": nul'),
    ({"body": None}, 200, b"null"),
    ({"body": []}, 200, b"[]"),
    ({"status": 503, "retry_after": 2}, 503, b""),
]


@pytest.mark.parametrize(("fault", "status", "content"), SCRIPTED, ids=str)
def test_any_answer_is_scripted(
    standin: StandIn, fault: dict[str, Any], status: int, content: bytes
) -> None:
    job = str(uuid4())
    standin.script({"kind": "response", "job": job} | fault)
    answer = post(standin, RESPONSES, metadata={"job": job})
    assert (answer.status_code, answer.content) == (status, content)
    for name, value in fault.get("headers", {}).items():
        assert answer.headers[name] == value
    if "retry_after" in fault:
        assert answer.headers["retry-after"] == "2"
    assert standin.bill(job)["calls"] == 0
    assert post(standin, RESPONSES, metadata={"job": job}).json()["status"] == "completed"


def test_scripted_answer_with_tokens_is_billed(standin: StandIn) -> None:
    job = str(uuid4())
    body = {"choices": [], "usage": {"total_tokens": 40}}
    standin.script(
        {"kind": "response", "job": job, "body": body},
        {"kind": "response", "job": job, "body": {}, "tokens": 2},
    )
    for _ in range(2):
        post(standin, RESPONSES, metadata={"job": job, "step": "article"})
    assert standin.bill(job) == {"calls": 2, "tokens": 42, "steps": {"article": 2}}


def test_fault_applies_to_the_nth_call_of_a_step(standin: StandIn) -> None:
    job = str(uuid4())
    standin.script({"kind": "500", "job": job, "step": "article", "nth": 2, "count": 2})

    def call(step: str) -> int:
        return post(standin, RESPONSES, metadata={"job": job, "step": step}).status_code

    assert [call("outline"), call("article"), call("outline")] == [200, 200, 200]
    assert [call("article") for _ in range(3)] == [500, 500, 200]


def test_fault_without_count_never_ends(standin: StandIn) -> None:
    job = str(uuid4())
    standin.script({"kind": "503", "job": job, "count": None})
    answers = [post(standin, RESPONSES, metadata={"job": job}) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {503}
    standin.clear_faults()
    assert post(standin, RESPONSES, metadata={"job": job}).status_code == 200


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        ("failed", {"code": "rate_limit_exceeded", "message": "m"}, "rate_limit_exceeded"),
        ("failed", "The model broke.", "server_error"),
        ("queued", None, None),
    ],
)
async def test_status_of_a_response_is_scripted(
    client: AsyncOpenAI, standin: StandIn, status: str, error: object, code: str | None
) -> None:
    job = uuid4()
    standin.script({"kind": "status", "job": str(job), "status": status, "error": error})
    answer = await write(client, job)
    assert (answer.status, answer.usage, answer.output_text) == (status, None, "")
    assert (answer.error.code if answer.error else None) == code
    assert standin.bill(job)["calls"] == 0


def test_slow_body_dribbles_and_is_whole_in_the_end(standin: StandIn) -> None:
    job = str(uuid4())
    standin.script({"kind": "slow_body", "job": job, "seconds": 1.5})
    started = time.monotonic()
    answer = post(standin, RESPONSES, metadata={"job": job})
    assert time.monotonic() - started >= 1.5
    assert answer.content.startswith(b"  {")
    assert answer.json()["status"] == "completed"
    assert standin.bill(job)["calls"] == 1


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_connection_is_broken(standin: StandIn, kind: str) -> None:
    job = str(uuid4())
    standin.script({"kind": kind, "job": job})
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        post(standin, RESPONSES, metadata={"job": job})
    assert standin.bill(job)["calls"] == 0
