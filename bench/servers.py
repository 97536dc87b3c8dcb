"""A real PostgreSQL and a real Kafka for the length of a block, in a folder that goes afterwards."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from migrations import runner
from sandbox import kafka, postgres
from sandbox.logs import RunLog
from sandbox.process import Child, Spec


@asynccontextmanager
async def a_postgres() -> AsyncIterator[str]:
    """A migrated database: its DSN."""
    async with _server(postgres.prepare) as dsn:
        await runner.up(dsn)
        yield dsn


@asynccontextmanager
async def a_kafka() -> AsyncIterator[str]:
    """A broker: its bootstrap address."""
    async with _server(kafka.prepare) as bootstrap:
        yield bootstrap


Prepare = Callable[[Path, Callable[[str], None]], tuple[Spec, str]]


@asynccontextmanager
async def _server(prepare: Prepare) -> AsyncIterator[str]:
    with _folder() as folder, RunLog(folder / "server.log", None) as log:
        spec, address = prepare(folder / "server", _ignore)
        child = Child(spec, log)
        await child.start()
        try:
            yield address
        finally:
            await child.stop()


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="blogstream-bench-") as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL runs as another user
        yield Path(name)


def _ignore(line: str) -> None:
    return
