"""The text provider against independent servers from PyPI. Skipped where they are not installed.

Neither server has the Responses API, strict schemas or JSON mode. Both answer with a prepared text:
JSON in a fence, and JSON behind other words.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import httpx
import pytest

from sandbox.system.home import free_port
from services.generator.blog.article import Outline
from services.generator.providers.accounts.account import TextApi
from services.generator.providers.openai.client import create_text_client
from services.generator.providers.openai.provider import (
    OpenAITextProvider,
    TextCall,
    UnsupportedFeature,
)
from tests.support.text_accounts import make_text_account, make_text_limiter
from tests.support.text_answers import OUTLINE_JSON

DATA = '{"title":"How to brew green tea"}'
_MAX_CALLS = 6
"""Each refused feature costs one call."""


def _prepare_mockllm(folder: Path) -> dict[str, str]:
    file = folder / "responses.yml"
    file.write_text(json.dumps({"responses": {DATA: f"```json\n{OUTLINE_JSON}\n```"}}))
    return {"MOCKLLM_RESPONSES_FILE": str(file)}


def _prepare_mockai(folder: Path) -> dict[str, str]:
    file = folder / "responses.json"
    answer = {"type": "text", "input": DATA, "output": f"Here it is: {OUTLINE_JSON}"}
    file.write_text(json.dumps({"responses": [answer]}))
    return {"MOCKAI_RESPONSES": str(file)}


class Server(NamedTuple):
    """A package with a FastAPI application `server.app`."""

    prepare: Callable[[Path], dict[str, str]]
    """Writes the answers to a folder. Returns the variables that name them."""
    path: str
    api: TextApi


_SERVERS = {
    "mockllm": Server(_prepare_mockllm, path="/v1", api="auto"),
    "mockai": Server(_prepare_mockai, path="/openai", api="chat"),
}


@contextmanager
def _run_server(package: str, folder: Path) -> Iterator[str]:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    port = free_port()
    argv = (sys.executable, "-m", "uvicorn", f"{package}.server:app", "--port", str(port))
    environment = os.environ | _SERVERS[package].prepare(folder)
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + 30
        while not _answers(url):
            assert process.poll() is None, f"{package} ended"
            assert time.monotonic() < give_up, f"{package} did not answer"
            time.sleep(0.05)
        yield url + _SERVERS[package].path
    finally:
        process.kill()  # mockai does not end at SIGTERM
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code > 0
    except httpx.HTTPError:
        return False


@pytest.fixture(params=_SERVERS)
async def provider(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[OpenAITextProvider]:
    with _run_server(request.param, tmp_path) as url:
        account = make_text_account(base_url=url, api=_SERVERS[request.param].api)
        async with create_text_client(account) as client:
            yield OpenAITextProvider(client, account, make_text_limiter(account))


async def test_text_is_written_by_an_independent_server_of_chat_completions(
    provider: OpenAITextProvider,
) -> None:
    call = TextCall(
        job=uuid4(), step="outline", instructions="Plan one post.", data=DATA, max_tokens=700
    )
    for _ in range(_MAX_CALLS):
        permit = await provider.acquire_permit(call, Outline)
        try:
            outline, _ = await provider.write_text(call, Outline, permit)
        except UnsupportedFeature:
            continue
        break
    assert outline == Outline.model_validate_json(OUTLINE_JSON)
