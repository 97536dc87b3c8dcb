"""The real openai SDK against the stand-in and against llmock, an independent server."""

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from sandbox.system.home import free_port
from services.generator.blog.article import Article, Outline
from tests.support.fake_providers import start_fake_providers

FORMAT: Any = {
    "type": "json_schema",
    "name": "outline",
    "schema": Outline.model_json_schema(),
    "strict": True,
}


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
            "text": {"format": FORMAT | {"schema": Article.model_json_schema()}},
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
