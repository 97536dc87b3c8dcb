"""The stand-in for Replicate refuses what Replicate refuses, and fails in every scripted form."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from replicate.client import Client
from replicate.exceptions import ReplicateError

from services.generator.providers.accounts.account import ImageAccount
from services.generator.providers.accounts.prices import Prices
from services.generator.providers.replicate.http import close_client, create_client
from tests.support.fake_providers import StandIn, start_fake_providers

MODEL = "black-forest-labs/flux-schnell"
CREATE = f"/v1/models/{MODEL}/predictions"
TOKEN = {"authorization": "Bearer r8-x"}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def standin() -> Iterator[StandIn]:
    """Start a stand-in of its own: tests change its limits and options."""
    with start_fake_providers(REPLICATE_RPM="60000") as both:
        yield both.replicate


@pytest.fixture
async def client(standin: StandIn) -> AsyncIterator[Client]:
    opened = create_client(
        ImageAccount(
            name="replicate",
            token=SecretStr("r8-x"),
            base_url=standin.url,
            model=MODEL,
            requests=600,
            reads=3_000,
            prices=Prices(input_usd=0, output_usd=0, image_usd=0),
            timeout_s=5,
        )
    )
    yield opened
    await close_client(opened)


def create(
    standin: StandIn, job: object = "", path: str = CREATE, prefer: str = "", **inputs: Any
) -> httpx.Response:
    """Create a prediction of a tent; `inputs` are added."""
    headers = TOKEN | {"x-blogstream-job": str(job)} | ({"prefer": prefer} if prefer else {})
    body = {"input": {"prompt": "a tent", "output_format": "png"} | inputs}
    return httpx.post(f"{standin.url}{path}", json=body, headers=headers)


def poll(standin: StandIn, prediction: dict[str, Any]) -> dict[str, Any]:
    """Poll a prediction once."""
    found: dict[str, Any] = httpx.get(prediction["urls"]["get"], headers=TOKEN).json()
    return found


def script_prediction(standin: StandIn, **fault: Any) -> dict[str, Any]:
    """Create a prediction with a scripted life and wait until it could have ended."""
    job = str(uuid4())
    standin.script({"kind": "prediction", "job": job} | fault)
    prediction: dict[str, Any] = create(standin, job).json()
    time.sleep(0.15)
    return prediction


WRONG_INPUTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"prompt": None}, "required", "input", "prompt is required"),
    (
        {"prompt": 7},
        "invalid_type",
        "input.prompt",
        "Invalid type. Expected: string, given: integer",
    ),
    (
        {"output_format": "gif"},
        "enum",
        "input.output_format",
        'output_format must be one of the following: "webp", "jpg", "png"',
    ),
    ({"num_outputs": 5}, "number_lte", "input.num_outputs", "Must be less than or equal to 4"),
    ({"num_outputs": 0}, "number_gte", "input.num_outputs", "Must be greater than or equal to 1"),
    (
        {"num_inference_steps": 5},
        "number_lte",
        "input.num_inference_steps",
        "Must be less than or equal to 4",
    ),
    ({"output_quality": 101}, "number_lte", "input.output_quality", "Must be less than or equal"),
    ({"seed": "1"}, "invalid_type", "input.seed", "Invalid type. Expected: integer, given: string"),
    ({"go_fast": 1}, "invalid_type", "input.go_fast", "Expected: boolean, given: integer"),
    ({"aspect_ratio": "16x9"}, "enum", "input.aspect_ratio", "must be one of the following"),
    ({"megapixels": "2"}, "enum", "input.megapixels", 'following: "1", "0.25"'),
]


@pytest.mark.parametrize(("inputs", "kind", "field", "text"), WRONG_INPUTS, ids=str)
def test_wrong_input_is_refused(
    standin: StandIn, inputs: dict[str, Any], kind: str, field: str, text: str
) -> None:
    job = uuid4()
    answer = create(standin, job, **inputs)
    body = answer.json()
    assert (answer.status_code, body["status"]) == (422, 422)
    assert body["title"] == "Input validation failed"
    assert body["detail"].startswith(f"- {field}: ")
    (invalid,) = body["invalid_fields"]
    assert (invalid["type"], invalid["field"]) == (kind, field)
    assert text in invalid["description"]
    assert standin.bill(job)["calls"] == 0


def test_unknown_input_is_ignored_unless_the_option_refuses_it(standin: StandIn) -> None:
    assert create(standin, guidance_scale=3).status_code == 201
    with standin.options(refuse_unknown_inputs=True):
        answer = create(standin, guidance_scale=3)
    assert answer.status_code == 422
    assert "Additional property guidance_scale is not allowed" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        (
            CREATE,
            {"inptu": {}},
            "- input is required\n- Additional property inptu is not allowed\n",
        ),
        (CREATE, {"input": 7}, "- input: Invalid type. Expected: object, given: int\n"),
        (CREATE, {"input": {}, "version": "x"}, "- Additional property version is not allowed\n"),
        (
            "/v1/predictions",
            {"input": {}, "model": MODEL},
            "- version is required\n- Additional property model is not allowed\n",
        ),
    ],
)
def test_unknown_property_is_refused(
    standin: StandIn, path: str, body: dict[str, Any], detail: str
) -> None:
    answer = httpx.post(f"{standin.url}{path}", json=body, headers=TOKEN)
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)


async def test_unknown_model_is_not_found(client: Client, standin: StandIn) -> None:
    calls = (
        client.models.async_get("a/unknown"),
        client.models.predictions.async_create("a/unknown", input={"prompt": "x"}),
        client.predictions.async_get("unknown"),
    )
    for call in calls:
        with pytest.raises(ReplicateError) as missing:
            await call
        assert missing.value.status == 404


def test_unknown_version_is_not_permitted(standin: StandIn) -> None:
    body = {"version": "a/unknown", "input": {"prompt": "x"}}
    answer = httpx.post(f"{standin.url}/v1/predictions", json=body, headers=TOKEN)
    assert (answer.status_code, answer.json()["title"]) == (422, "Invalid version or not permitted")


async def test_model_and_its_version_are_served(client: Client) -> None:
    model = await client.models.async_get(MODEL)
    assert model.latest_version is not None
    schema = model.latest_version.openapi_schema["components"]["schemas"]["Input"]
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["num_outputs"]["maximum"] == 4
    created = await client.predictions.async_create(
        version=model.latest_version.id, input={"prompt": "a tent"}
    )
    assert created.model == MODEL


def test_account_is_served(standin: StandIn) -> None:
    account = httpx.get(f"{standin.url}/v1/account", headers=TOKEN).json()
    assert account["type"] == "organization"


@pytest.mark.parametrize("token", ["", "r8-x", "Bearer r8_wrong", "Token revoked"])
def test_wrong_token_is_refused(standin: StandIn, token: str) -> None:
    for method, path in (
        ("POST", CREATE),
        ("GET", "/v1/account"),
        ("GET", f"/v1/models/{MODEL}"),
        ("GET", "/v1/predictions/x"),
    ):
        answer = httpx.request(
            method, f"{standin.url}{path}", json={}, headers={"authorization": token}
        )
        assert (answer.status_code, answer.json()["title"]) == (401, "Unauthenticated")


@pytest.mark.parametrize(
    ("prefer", "status", "word"), [("", 201, "starting"), ("wait", 201, "succeeded")]
)
def test_prefer_wait_returns_the_finished_prediction(
    standin: StandIn, prefer: str, status: int, word: str
) -> None:
    answer = create(standin, prefer=prefer)
    assert (answer.status_code, answer.json()["status"]) == (status, word)


def test_prefer_wait_returns_a_running_prediction_after_its_time(standin: StandIn) -> None:
    with standin.latency(60_000):
        answer = create(standin, prefer="wait=1")
    assert answer.status_code == 202
    assert answer.json()["status"] == "processing"
    assert answer.json()["output"] is None


@pytest.mark.parametrize(
    ("name", "is_list", "media_type"),
    [
        (MODEL, True, "image/webp"),
        ("black-forest-labs/flux-1.1-pro", False, "image/webp"),
        ("google/imagen-4-fast", False, "image/jpeg"),
        ("a/b", True, "image/png"),
    ],
)
def test_output_has_the_models_shape_and_format(
    standin: StandIn, name: str, is_list: bool, media_type: str
) -> None:
    path = f"/v1/models/{name}/predictions"
    output = create(standin, path=path, prefer="wait", output_format=None).json()["output"]
    assert isinstance(output, list) == is_list
    assert httpx.get(output[0] if is_list else output).headers["content-type"] == media_type


def test_several_outputs_are_several_files(standin: StandIn) -> None:
    output = create(standin, prefer="wait", num_outputs=3).json()["output"]
    assert len(set(output)) == 3
    assert httpx.get(output[0]).content.startswith(PNG)


def test_canceled_prediction_ends_and_is_not_billed_further(standin: StandIn) -> None:
    job = uuid4()
    with standin.latency(60_000):
        prediction = create(standin, job).json()
    canceled = httpx.post(prediction["urls"]["cancel"], headers=TOKEN).json()
    assert canceled["status"] == "canceled"
    found = poll(standin, prediction)
    assert (found["status"], found["output"]) == ("canceled", None)
    assert standin.bill(job) == {"calls": 1, "tokens": 0, "steps": {"image": 1}}
    bill = httpx.get(f"{standin.url}/standin/bill").json()
    assert bill["canceled"][str(job)] == 1


def test_finished_prediction_is_not_canceled(standin: StandIn) -> None:
    prediction = create(standin, prefer="wait").json()
    answer = httpx.post(prediction["urls"]["cancel"], headers=TOKEN)
    assert answer.json()["status"] == "succeeded"


@pytest.mark.parametrize(
    ("style", "has_header", "has_body"),
    [("body", False, True), ("retry-after", True, True), ("plain", False, False)],
)
def test_account_with_low_credit_creates_one_at_a_time(
    standin: StandIn, style: str, has_header: bool, has_body: bool
) -> None:
    with standin.limits(requests=6, burst=1, style=style):
        first, second = create(standin), create(standin)
    assert (first.status_code, second.status_code) == (201, 429)
    assert ("retry-after" in second.headers) == has_header
    body = second.json()
    assert "6 requests per minute with a burst of 1 requests" in body["detail"]
    assert body.get("retry_after") == (10 if has_body else None)


def test_low_credit_is_a_setting() -> None:
    variables = {"REPLICATE_RPM": "6", "STANDIN_REPLICATE_BURST": "1"}
    with start_fake_providers(**variables) as both:
        statuses = [create(both.replicate).status_code for _ in range(2)]
    assert statuses == [201, 429]


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        ({"status": "failed"}, "failed", "failed, as scripted"),
        ({"status": "failed", "error": "CUDA out of memory"}, "failed", "CUDA out of memory"),
        ({"status": "canceled"}, "canceled", None),
        ({"status": "aborted"}, "aborted", None),
        ({"status": "queued"}, "queued", None),
        ({"status": "starting"}, "starting", None),
        ({"status": "warming"}, "warming", None),
    ],
    ids=str,
)
def test_status_of_a_prediction_is_scripted(
    standin: StandIn, fault: dict[str, Any], status: str, error: str | None
) -> None:
    prediction = script_prediction(standin, **fault)
    for _ in range(3):
        found = poll(standin, prediction)
        assert (found["status"], found["error"], found["output"]) == (status, error, None)


def test_status_lasts_for_some_polls_and_then_succeeds(standin: StandIn) -> None:
    prediction = script_prediction(standin, status="queued", polls=2)
    statuses = [poll(standin, prediction)["status"] for _ in range(4)]
    assert statuses == ["queued", "queued", "succeeded", "succeeded"]


def test_one_poll_shows_something_else(standin: StandIn) -> None:
    job = str(uuid4())
    prediction = create(standin, job, prefer="wait").json()
    standin.script({"kind": "prediction", "job": job, "on": "poll", "nth": 2, "status": "odd"})
    assert [poll(standin, prediction)["status"] for _ in range(3)] == [
        "succeeded",
        "odd",
        "succeeded",
    ]


@pytest.mark.parametrize(
    "output",
    [
        "{url}",
        ["{url}"],
        {"images": ["{url}"]},
        [{"url": "{url}"}],
        "data:image/png;base64,iVBORw0KGgo=",
        "output/out-0.png",
        None,
        [],
        "",
        7,
    ],
    ids=str,
)
def test_output_of_a_prediction_is_scripted(standin: StandIn, output: object) -> None:
    found = poll(standin, script_prediction(standin, output=output))
    assert found["status"] == "succeeded"
    url = f"{standin.url}/output/{found['id']}/out-0.png"
    expected = {
        "{url}": url,
        "['{url}']": [url],
        "{'images': ['{url}']}": {"images": [url]},
        "[{'url': '{url}'}]": [{"url": url}],
    }
    assert found["output"] == expected.get(str(output), output)


@pytest.mark.parametrize(
    ("kind", "status", "media_type", "start"),
    [
        ("png", 200, "image/png", PNG),
        ("jpeg", 200, "image/jpeg", b"\xff\xd8\xff"),
        ("webp", 200, "image/webp", b"RIFF"),
        ("svg", 200, "image/svg+xml", b"<svg"),
        ("html", 200, "text/html", b"<!doctype html>"),
        ("octet-stream", 200, "application/octet-stream", PNG),
        ("empty", 200, "image/png", b""),
        ("expired", 403, "application/xml", b"<?xml"),
        ("missing", 404, "application/json", b"{"),
        ("redirect", 302, "", b""),
    ],
)
def test_file_of_a_prediction_is_scripted(
    standin: StandIn, kind: str, status: int, media_type: str, start: bytes
) -> None:
    (url,) = poll(standin, script_prediction(standin, file=kind))["output"]
    answer = httpx.get(url)
    assert answer.status_code == status
    assert answer.headers.get("content-type", "").split(";")[0] == media_type
    assert answer.content.startswith(start)
    if kind == "empty":
        assert answer.content == b""
    if kind == "redirect":
        assert httpx.get(url, follow_redirects=True).content.startswith(PNG)


def test_redirects_without_end_are_scripted(standin: StandIn) -> None:
    (url,) = poll(standin, script_prediction(standin, file="redirect-loop"))["output"]
    with pytest.raises(httpx.TooManyRedirects):
        httpx.get(url, follow_redirects=True)


@pytest.mark.parametrize(("count", "statuses"), [(1, [500, 200, 200]), (None, [500, 500, 500])])
def test_polls_fail_now_and_then_or_for_ever(
    standin: StandIn, count: int | None, statuses: list[int]
) -> None:
    job = str(uuid4())
    prediction = create(standin, job).json()
    standin.script({"kind": "500", "job": job, "on": "poll", "count": count})
    url = prediction["urls"]["get"]
    assert [httpx.get(url, headers=TOKEN).status_code for _ in statuses] == statuses
    standin.clear_faults()


@pytest.mark.parametrize("operation", ["create", "poll", "output", "cancel"])
def test_any_answer_is_scripted_for_an_operation(standin: StandIn, operation: str) -> None:
    job, body = str(uuid4()), "<html>Bad gateway</html>"
    prediction = create(standin, job, prefer="wait").json()
    standin.script({"kind": "response", "job": job, "on": operation, "status": 502, "body": body})
    answers = {
        "poll": httpx.get(prediction["urls"]["get"], headers=TOKEN),
        "output": httpx.get(prediction["output"][0]),
        "cancel": httpx.post(prediction["urls"]["cancel"], headers=TOKEN),
        "create": create(standin, job),
    }
    failed = {name for name, answer in answers.items() if answer.status_code == 502}
    assert failed == {operation}
    assert answers[operation].text == body


def test_reads_of_model_and_account_are_scripted(standin: StandIn) -> None:
    standin.script({"kind": "503", "on": "read", "count": 2})
    for path in (f"/v1/models/{MODEL}", "/v1/account"):
        assert httpx.get(f"{standin.url}{path}", headers=TOKEN).status_code == 503
    assert httpx.get(f"{standin.url}/v1/account", headers=TOKEN).status_code == 200


def test_scripted_creation_is_billed_only_with_an_id(standin: StandIn) -> None:
    job = str(uuid4())
    standin.script(
        {"kind": "response", "job": job, "status": 200, "body": {"error": "no"}},
        {"kind": "response", "job": job, "status": 201, "body": {"id": "x"}},
    )
    assert [create(standin, job).status_code for _ in range(2)] == [200, 201]
    assert standin.bill(job)["calls"] == 1


def test_slow_file_dribbles_and_is_whole_in_the_end(standin: StandIn) -> None:
    job = str(uuid4())
    prediction = create(standin, job, prefer="wait").json()
    standin.script({"kind": "slow_body", "job": job, "on": "output", "seconds": 1.2})
    started = time.monotonic()
    content = httpx.get(prediction["output"][0]).content
    assert time.monotonic() - started >= 1.2
    assert content == httpx.get(prediction["output"][0]).content


@pytest.mark.parametrize(("kind", "billed"), [("cut", 1), ("reset", 0)])
def test_connection_is_broken(standin: StandIn, kind: str, billed: int) -> None:
    job = str(uuid4())
    standin.script({"kind": kind, "job": job})
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        create(standin, job)
    assert standin.bill(job)["calls"] == billed


def test_calls_are_recorded(standin: StandIn) -> None:
    job = uuid4()
    create(standin, job)
    (call,) = standin.calls(job)
    assert (call["method"], call["path"], call["status"]) == ("POST", CREATE, 201)
