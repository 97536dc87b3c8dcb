"""The process of the stand-ins: it starts those of STANDINS, and the doctor accepts both."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from sandbox.system.home import ROOT, free_port
from tests.support.eventually import eventually
from tests.support.fake_providers import start_fake_providers


async def is_answering(port: int) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}/")).is_success
        except httpx.HTTPError:
            return False


@asynccontextmanager
async def started(standins: str, openai: int, replicate: int) -> AsyncIterator[None]:
    environment = os.environ | {
        "STANDINS": standins,
        "STANDIN_OPENAI_PORT": str(openai),
        "STANDIN_REPLICATE_PORT": str(replicate),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox.providers", env=environment, cwd=ROOT, stdout=-3
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize(("standins", "answering"), [("openai", 0), ("replicate", 1)])
async def test_only_the_named_stand_in_is_started(standins: str, answering: int) -> None:
    ports = (free_port(), free_port())
    async with started(standins, *ports):
        await eventually(lambda: is_answering(ports[answering]), what="a stand-in")
        assert not await is_answering(ports[1 - answering])


async def test_doctor_accepts_both_stand_ins() -> None:
    with start_fake_providers() as standins:
        environment = os.environ | {
            "DATABASE_URL": "mysql://none",
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "OPENAI_API_KEY": "sk-stand-in",
            "OPENAI_BASE_URL": f"{standins.openai.url}/v1",
            "REPLICATE_API_TOKEN": "r8-stand-in",
            "REPLICATE_BASE_URL": standins.replicate.url,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services.generator.doctor", "--json"),
            env=environment,
            cwd=ROOT,
            stdout=-1,
        )
        output, _ = await process.communicate()
    checks = {check["name"]: check for check in json.loads(output)}
    assert checks["openai"]["status"] == "ok", checks["openai"]
    assert checks["replicate"]["status"] == "ok", checks["replicate"]
    assert checks["postgresql"]["status"] == "failed"
