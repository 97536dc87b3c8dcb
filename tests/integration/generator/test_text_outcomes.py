"""What becomes of jobs when the text server answers as servers in the field do."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from services.generator import service
from shared.domain.messages import BlogRequested
from tests.support.backend import Backend, make_request, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.generator import worker_settings
from tests.support.text_answers import OUTLINE_JSON, error_body, response_answer
from tests.support.text_server import Answer, Call, Script, TextServer, run_text_server

ARTICLE = {
    "title": "Herbal tea",
    "slug": "herbal-tea",
    "meta_description": "Calm.",
    "sections": [{"heading": "Why", "paragraphs": ["It calms."]}],
}
ARTICLE_JSON = orjson.dumps(ARTICLE).decode()

RunWorker = Callable[..., Any]


@pytest.fixture
def run_worker(backend: Backend, database: str, standins: StandIns, tmp_path: Path) -> RunWorker:
    """Return a context manager that runs a worker whose texts come from a scripted server."""

    @asynccontextmanager
    async def run(script: Script, **changes: Any) -> AsyncIterator[TextServer]:
        async with run_text_server(script) as server:
            settings = worker_settings(
                bootstrap=backend.settings.kafka_bootstrap_servers,
                prefix=backend.settings.kafka_topic_prefix,
                database=database,
                standins=standins,
                folder=tmp_path,
                **{"openai_base_url": f"{server.url}/v1"} | changes,
            )
            async with running_service(lambda stop: service.run_worker(settings, stop, name="w")):
                yield server

    return run


def write(call: Call, **changes: Any) -> Answer:
    """Answer a call with the outline or the article that it asks for."""
    is_outline = call.body["text"]["format"]["name"] == "outline"
    return Answer(body=response_answer(OUTLINE_JSON if is_outline else ARTICLE_JSON, **changes))


def is_about(call: Call, word: str) -> bool:
    return word in call.body["input"]


async def ended_attempts(backend: Backend, request: BlogRequested) -> int:
    row = await backend.row(request.id)
    return int(row["attempt"]) if row["status"] != "PROCESSING" else 0


async def wait_for_attempts(backend: Backend, request: BlogRequested, times: int) -> asyncpg.Record:
    """Wait until so many attempts have ended, and return the job's row."""

    async def reached() -> bool:
        return await ended_attempts(backend, request) >= times

    await eventually(reached, every=0.2)
    return await backend.row(request.id)


async def dispatch_again(backend: Backend, request: BlogRequested) -> None:
    await backend.database.execute(
        "UPDATE blog_generations SET forwarded_at = now(), not_before = NULL WHERE id = $1",
        request.id,
    )
    await backend.send_task(request)


async def test_flagged_job_fails_alone(backend: Backend, run_worker: RunWorker) -> None:
    flagged = error_body(
        "Your input was flagged by moderation",
        code=403,
        metadata={"reasons": ["violence"], "flagged_input": "knives"},
    )

    def script(call: Call) -> Answer:
        return Answer(status=403, body=flagged) if is_about(call, "knives") else write(call)

    poisoned = [make_request(title="knives", images=0) for _ in range(3)]
    others = [make_request(title="tea", images=0) for _ in range(3)]
    async with run_worker(script):
        for request in (*poisoned, *others):
            await backend.insert_dispatched(request)
        for request in others:
            await eventually(partial(backend.has_status, request.id, "DONE"), every=0.2)
        for request in poisoned:
            await eventually(partial(backend.has_status, request.id, "FAILED"), every=0.2)
    row = await backend.row(poisoned[0].id)
    assert (row["error_code"], row["attempt"]) == ("refused", 1)
    assert "flagged by moderation" in row["error"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=404, body=error_body("The model `x` does not exist", code="model_not_found")),
        Answer(
            status=400, body=error_body("Unknown parameter: 'input'.", code="unknown_parameter")
        ),
        Answer(body=response_answer(status="failed", error={"code": "server_error"}, usage=None)),
        Answer(body={"error": {"code": 502, "message": "Provider returned error"}}),
        Answer(body=response_answer(output=None, usage=None)),
    ],
    ids=["model", "parameter", "failed response", "error object", "no output"],
)
async def test_trouble_of_the_server_fails_no_job(
    backend: Backend, run_worker: RunWorker, answer: Answer
) -> None:
    is_well: list[bool] = []
    requests = [make_request(images=0) for _ in range(3)]
    async with run_worker(lambda call: write(call) if is_well else answer):
        for request in requests:
            await backend.insert_dispatched(request)
        rows = [await wait_for_attempts(backend, request, 1) for request in requests]
        is_well.append(True)
    assert [(row["status"], row["attempt"] - row["blameless"]) for row in rows] == [
        ("PENDING", 0)
    ] * 3
    async with run_worker(write):
        for request in requests:
            await dispatch_again(backend, request)
            await eventually(partial(backend.has_status, request.id, "DONE"), every=0.2)


async def test_dribbling_body_ends_the_call_in_time(
    backend: Backend, run_worker: RunWorker
) -> None:
    request = make_request(images=0)
    async with run_worker(lambda call: Answer(body={}, dribble=0.2), openai_timeout_s=1):
        await backend.insert_dispatched(request)
        row = await wait_for_attempts(backend, request, 1)
    assert (row["status"], row["blameless"]) == ("PENDING", 1)
    assert "no answer in time" in row["error"]


async def test_reasoning_model_writes_and_shows_its_reasoning(
    backend: Backend, run_worker: RunWorker
) -> None:
    usage = {
        "input_tokens": 200,
        "output_tokens": 2_100,
        "output_tokens_details": {"reasoning_tokens": 2_000},
        "total_tokens": 2_300,
    }

    def script(call: Call) -> Answer:
        if call.body["max_output_tokens"] >= 2_100:
            return write(call, usage=usage)
        reason = {"reason": "max_output_tokens"}
        return Answer(body=response_answer(status="incomplete", incomplete_details=reason))

    request = make_request(images=0)
    prices = {"openai_input_price": 0.15, "openai_output_price": 0.6}
    async with run_worker(script, openai_model="gpt-5-mini", **prices) as server:
        await backend.insert_dispatched(request)
        await eventually(partial(backend.has_status, request.id, "DONE"), every=0.2)
        assert len(server.calls) == 2
    row = await backend.row(request.id)
    assert (row["output_tokens"], row["reasoning_tokens"]) == (4_200, 4_000)
    assert row["cost_nanousd"] == 400 * 150 + 4_200 * 600
    steps = await backend.database.fetch(
        "SELECT reasoning_tokens FROM blog_steps WHERE job_id = $1 AND step <> 'assemble'",
        request.id,
    )
    assert [step["reasoning_tokens"] for step in steps] == [2_000, 2_000]


async def test_cut_answers_get_more_room_before_the_prompt_changes(
    backend: Backend, run_worker: RunWorker
) -> None:
    def script(call: Call) -> Answer:
        if call.body["max_output_tokens"] >= 2_000:
            return write(call)
        reason = {"reason": "max_output_tokens"}
        return Answer(body=response_answer(status="incomplete", incomplete_details=reason))

    request = make_request(images=0)
    async with run_worker(script) as server:
        await backend.insert_dispatched(request)
        await eventually(partial(backend.has_status, request.id, "DONE"), every=0.2)
        first, second, third = (call.body for call in server.calls[:3])
    assert [body["max_output_tokens"] for body in (first, second, third)] == [700, 1_400, 2_800]
    assert first["instructions"] == second["instructions"]
    assert "of no use" in third["instructions"]


async def test_unusable_answers_are_counted_across_attempts(
    backend: Backend, run_worker: RunWorker
) -> None:
    misfit = Answer(body=response_answer('{"title": "No headings"}'))
    busy = Answer(status=503, body=error_body("The engine is overloaded."))
    answers = iter([misfit, misfit, busy, misfit, misfit])
    request = make_request(images=0)
    async with run_worker(lambda call: next(answers)) as server:
        await backend.insert_dispatched(request)
        row = await wait_for_attempts(backend, request, 1)
        assert row["status"] == "PENDING"
        assert row["output_tokens"] == 180, "what was paid is booked"
        await dispatch_again(backend, request)
        await eventually(partial(backend.has_status, request.id, "FAILED"), every=0.2)
        assert len(server.calls) == 4
    row = await backend.row(request.id)
    assert row["error_code"] == "openai-schema"
    assert row["output_tokens"] == 270
