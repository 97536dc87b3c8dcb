"""Runs a PostgreSQL, Kafka, Redis or a Python process for the length of a block."""

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import httpx

from migrations import runner
from sandbox.servers import kafka, postgres
from sandbox.system.environment import process_environment
from sandbox.system.home import ROOT, free_port
from sandbox.system.process import ChildProcess, ProcessSpec
from sandbox.system.run_log import RunLog


@asynccontextmanager
async def running_postgres(*options: str) -> AsyncIterator[str]:
    """Run a PostgreSQL server; yield the DSN of a migrated database.

    `options` are further settings of the server, as `name=value`.
    """

    def prepare(folder: Path, report: Callable[[str], None]) -> tuple[ProcessSpec, str]:
        spec, dsn = postgres.prepare_server(folder, report)
        return replace(spec, argv=(*spec.argv, *(f"-c{option}" for option in options))), dsn

    async with _server(prepare) as dsn:
        await runner.apply_missing(dsn)
        yield dsn


@asynccontextmanager
async def running_kafka() -> AsyncIterator[str]:
    """Run a broker; yield its bootstrap address."""
    async with _server(kafka.prepare_server) as bootstrap:
        yield bootstrap


PrepareServer = Callable[[Path, Callable[[str], None]], tuple[ProcessSpec, str]]


@asynccontextmanager
async def running_process(
    module: str, *arguments: str, ready_at: str, variables: Mapping[str, str] | None = None
) -> AsyncIterator[ChildProcess]:
    """Run `python -m MODULE ARGUMENTS`; the block begins once it answers at `ready_at`."""
    spec = ProcessSpec(
        name=module,
        argv=(sys.executable, "-m", module, *arguments),
        env=process_environment({"PYTHONPATH": str(ROOT), **(variables or {})}),
        ready_check=lambda: _is_ok(ready_at),
        stop_within_s=5,
    )
    with _folder() as folder:
        async with _running(spec, folder) as child:
            yield child


@asynccontextmanager
async def running_redis(binary: Path) -> AsyncIterator[str]:
    """Run a Redis that appends every command to its file before it answers; yield its URL.

    This durability equals Kafka's: acknowledged data survives the process, not a power loss.
    """
    port = free_port()
    with _folder() as folder:
        argv = (
            str(binary),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
        )
        spec = ProcessSpec(
            name="redis",
            argv=argv,
            env=process_environment({}),
            ready_line="Ready to accept",
            stop_within_s=5,
        )
        async with _running(spec, folder):
            yield f"redis://127.0.0.1:{port}/0"


@asynccontextmanager
async def _server(prepare: PrepareServer) -> AsyncIterator[str]:
    with _folder() as folder:
        spec, address = prepare(folder / "server", _ignore)
        async with _running(spec, folder):
            yield address


@asynccontextmanager
async def _running(spec: ProcessSpec, folder: Path) -> AsyncIterator[ChildProcess]:
    with RunLog(folder / "server.log", None) as log:
        child = ChildProcess(spec, log)
        await child.start()
        try:
            yield child
        finally:
            await child.stop()


async def _is_ok(url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=2) as client:
            return (await client.get(url)).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="blogstream-bench-") as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL runs as another user
        yield Path(name)


def _ignore(line: str) -> None:
    return
