"""The real openai SDK against the stand-in and against llmock, an independent server.

The text provider against the stand-in: what is written, billed and refused.
"""

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from sandbox.system.home import free_port
from services.generator.blog.article import Article, Outline
from services.generator.providers.openai.client import create_text_client
from services.generator.providers.openai.provider import (
    OpenAITextProvider,
    TextCall,
    UnusableAnswer,
)
from services.generator.providers.openai.requests import build_text_format
from shared.domain.errors import Transient
from shared.domain.messages import Usage
from tests.support.fake_providers import StandIns, start_fake_providers
from tests.support.text_accounts import make_text_account, make_text_limiter

FORMAT: Any = build_text_format(Outline)["format"]


@pytest.fixture(scope="module")
def narrow_standin() -> Iterator[str]:
    """Start the stand-in with 5 requests a minute."""
    with start_fake_providers(OPENAI_RPM="5", OPENAI_TPM="100000") as standins:
        yield f"{standins.openai.url}/v1"


@pytest.fixture(scope="module")
def narrow_llmock() -> Iterator[str]:
    """Start llmock with 5 requests a minute."""
    port = free_port()
    program = Path(sys.executable).parent / "llmock"
    argv = (
        program,
        "serve",
        "--port",
        str(port),
        "--rpm",
        "5",
        "--tpm",
        "100000",
        "--log-level",
        "error",
    )
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        try:
            httpx.get(f"http://127.0.0.1:{port}/")
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait()


@pytest.fixture(params=["standin", "llmock"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    """Open a client with its own key for each server, because limits count by key."""
    url = request.getfixturevalue(f"narrow_{request.param}")
    key = f"sk-{request.node.name}"
    async with AsyncOpenAI(api_key=key, base_url=url, max_retries=0) as opened:
        yield opened


async def test_structured_answer_then_rate_limit_error(client: AsyncOpenAI) -> None:
    raw = await client.responses.with_raw_response.create(
        model="gpt-4o-mini",
        instructions="Plan.",
        input='{"title": "Tea"}',
        text={"format": FORMAT},
        max_output_tokens=700,
        metadata={"job": "j", "step": "outline"},
    )
    response = raw.parse()
    assert response.status == "completed"
    Outline.model_validate_json(response.output_text)
    assert response.usage is not None
    assert response.usage.input_tokens > 0
    assert response.usage.output_tokens > 0
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert int(raw.headers["x-ratelimit-limit-requests"]) == 5
    assert 0 <= int(raw.headers["x-ratelimit-remaining-requests"]) < 5

    with pytest.raises(openai.RateLimitError) as limited:
        await _call_often(client)
    assert limited.value.status_code == 429
    assert limited.value.code == "rate_limit_exceeded"
    assert float(limited.value.response.headers["retry-after"]) > 0


async def _call_often(client: AsyncOpenAI) -> None:
    for _ in range(10):
        await client.responses.create(model="gpt-4o-mini", input="more", max_output_tokens=16)


def test_call_without_key_is_rejected(narrow_standin: str) -> None:
    answer = httpx.post(f"{narrow_standin}/responses", json={"model": "gpt-4o-mini", "input": "x"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_stand_in_names_itself_and_repeats_its_text() -> None:
    with start_fake_providers(OPENAI_RPM="6000", OPENAI_TPM="9000000") as standins:
        url = f"{standins.openai.url}/v1/responses"
        body = {
            "model": "m",
            "input": '{"title": "Linen apron", "product": {"vendor": "Lune", "type": "Apron"}}',
            "text": {"format": build_text_format(Article)["format"]},
        }
        headers = {"Authorization": "Bearer x"}
        first, second = (httpx.post(url, json=body, headers=headers) for _ in range(2))
    assert first.headers["x-standin"] == "openai"
    assert first.json()["metadata"]["standin"] == "true"
    texts = [answer.json()["output"][0]["content"][0]["text"] for answer in (first, second)]
    assert texts[0] == texts[1]
    written = Article.model_validate_json(texts[0])
    prose = " ".join(text for section in written.sections for text in section.paragraphs)
    assert "Linen apron" in prose
    assert 200 <= len(prose.split()) <= 1_200


@pytest.fixture
async def text_provider(standins: StandIns) -> AsyncIterator[OpenAITextProvider]:
    account = make_text_account(base_url=f"{standins.openai.url}/v1", timeout_s=1.0)
    async with create_text_client(account) as client:
        yield OpenAITextProvider(client, account, make_text_limiter(account))


def make_call(job: UUID, **changes: Any) -> TextCall:
    values: dict[str, Any] = {"instructions": "Plan.", "data": '{"title": "Tea"}'}
    return TextCall(job=job, step="outline", max_tokens=700, **values | changes)


async def write_outline(provider: OpenAITextProvider, job: UUID) -> tuple[Outline, Usage]:
    permit = await provider.acquire_permit(make_call(job), Outline)
    return await provider.write_text(make_call(job), Outline, permit)


async def test_text_is_written_and_billed(
    text_provider: OpenAITextProvider, standins: StandIns
) -> None:
    job = uuid4()
    outline, usage = await write_outline(text_provider, job)
    assert "Tea" in outline.title
    assert usage.input_tokens + usage.output_tokens == standins.openai.bill(job)["tokens"]
    assert usage.cost_nanousd == usage.input_tokens * 150 + usage.output_tokens * 600
    assert standins.openai.bill(job)["steps"] == {"outline": 1}


async def test_usage_above_reservation_is_charged(standins: StandIns) -> None:
    account = make_text_account(base_url=f"{standins.openai.url}/v1")
    limiter = make_text_limiter(account)
    async with create_text_client(account) as client:
        provider = OpenAITextProvider(client, account, limiter)
        permit = await provider.acquire_permit(make_call(uuid4()), Outline)
        (tokens,) = (state for state in limiter.build_reports() if state.resource == "tokens")
        long = make_call(uuid4(), instructions="Plan. " * 9_000)
        _, usage = await provider.write_text(long, Outline, permit)
        (after,) = (state for state in limiter.build_reports() if state.resource == "tokens")
    assert tokens.used < usage.input_tokens
    assert after.used == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize(
    ("fault", "code", "delay"),
    [
        ({"kind": "429", "retry_after": 7}, "openai-throttled", 7.0),
        ({"kind": "500"}, "openai-server-error", None),
        ({"kind": "503", "retry_after": 2}, "openai-server-error", 2.0),
        ({"kind": "insufficient_quota"}, "openai-no-credit", None),
        ({"kind": "401"}, "openai-key", None),
        ({"kind": "403"}, "openai-model", None),
        ({"kind": "404"}, "openai-model", None),
        ({"kind": "timeout", "seconds": 5}, "openai-timeout", None),
        ({"kind": "cut"}, "openai-lost", None),
        ({"kind": "malformed"}, "openai-unreadable", None),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else None,
)
async def test_failure_lets_the_job_wait_unbilled(
    text_provider: OpenAITextProvider,
    standins: StandIns,
    fault: dict[str, Any],
    code: str,
    delay: float | None,
) -> None:
    job = uuid4()
    standins.openai.script(fault | {"job": str(job)})
    with pytest.raises(Transient) as failed:
        await write_outline(text_provider, job)
    assert (failed.value.code, failed.value.blameless) == (code, True)
    assert failed.value.delay == (pytest.approx(delay, abs=0.1) if delay else None)
    assert standins.openai.bill(job)["calls"] == 0


@pytest.mark.parametrize(
    ("kind", "code"),
    [("truncated", "openai-incomplete"), ("refusal", "refused"), ("schema", "openai-schema")],
)
async def test_unusable_answer_is_billed(
    text_provider: OpenAITextProvider, standins: StandIns, kind: str, code: str
) -> None:
    job = uuid4()
    standins.openai.script({"kind": kind, "job": str(job)})
    with pytest.raises(UnusableAnswer) as failed:
        await write_outline(text_provider, job)
    assert failed.value.outcome.code == code
    bill = standins.openai.bill(job)
    assert failed.value.usage.input_tokens + failed.value.usage.output_tokens == bill["tokens"] > 0


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize(
    "model", ["gpt-4o-mini", "gpt-5-mini", "gpt-5.1", "o3-mini", "gpt-5.6-sol"]
)
async def test_calls_are_in_order_for_models_and_apis(
    standins: StandIns, api: str, model: str
) -> None:
    """The stand-in refuses what OpenAI refuses: nothing of a call may need to be left out."""
    account = make_text_account(base_url=f"{standins.openai.url}/v1", api=api, model=model)
    async with create_text_client(account) as client:
        provider = OpenAITextProvider(client, account, make_text_limiter(account))
        outline, usage = await write_outline(provider, uuid4())
    assert "Tea" in outline.title
    assert usage.reasoning_tokens <= usage.output_tokens
