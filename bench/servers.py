"""A real PostgreSQL, Kafka or Redis, or a process of ours for the length of a block; their folders go afterwards."""

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx

from migrations import runner
from sandbox.servers import kafka, postgres
from sandbox.system.environment import process_environment
from sandbox.system.home import ROOT, free_port
from sandbox.system.process import ChildProcess, ProcessSpec
from sandbox.system.run_log import RunLog


@asynccontextmanager
async def running_postgres() -> AsyncIterator[str]:
    """A migrated database: its DSN."""
    async with _server(postgres.prepare_server) as dsn:
        await runner.up(dsn)
        yield dsn


@asynccontextmanager
async def running_kafka() -> AsyncIterator[str]:
    """A broker: its bootstrap address."""
    async with _server(kafka.prepare_server) as bootstrap:
        yield bootstrap


Prepare = Callable[[Path, Callable[[str], None]], tuple[ProcessSpec, str]]


@asynccontextmanager
async def running_process(
    module: str, *arguments: str, ready_at: str, variables: Mapping[str, str] | None = None
) -> AsyncIterator[ChildProcess]:
    """`python -m MODULE ARGUMENTS`, from when it answers at an address until the block ends."""
    spec = ProcessSpec(
        name=module,
        argv=(sys.executable, "-m", module, *arguments),
        env=process_environment({"PYTHONPATH": str(ROOT), **(variables or {})}),
        ready_check=lambda: _answers(ready_at),
        stop_within_s=5,
    )
    with _folder() as folder:
        async with _running(spec, folder) as child:
            yield child


@asynccontextmanager
async def running_redis(binary: Path) -> AsyncIterator[str]:
    """A Redis that writes every command to its file before it answers, as Kafka does: its URL.

    Neither waits for the disk: what either has acknowledged outlives its process, not a loss of power.
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
async def _server(prepare: Prepare) -> AsyncIterator[str]:
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


async def _answers(url: str) -> bool:
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
