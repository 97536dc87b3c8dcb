"""Starting and stopping a server outside of any event loop: the session's servers outlive every test's loop."""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from sandbox.servers.postgres import open_connection
from sandbox.system.process import ProcessSpec


def start(spec: ProcessSpec, log: Path) -> subprocess.Popen[bytes]:
    """Start a server and wait until it is ready."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            spec.argv,
            env=dict(spec.env),
            stdout=output,
            stderr=subprocess.STDOUT,
            user=spec.user,
            extra_groups=[] if spec.user else None,
            start_new_session=True,
        )
    assert spec.ready_check is not None
    give_up = time.monotonic() + spec.ready_within_s
    while not asyncio.run(spec.ready_check()):
        if process.poll() is not None or time.monotonic() > give_up:
            stop(spec, process)
            pytest.fail(f"{spec.name} did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
    return process


async def execute(dsn: str, statement: str) -> list[asyncpg.Record]:
    """One statement over a connection of its own: the rows that it brings."""
    async with open_connection(dsn) as connection:
        found: list[asyncpg.Record] = await connection.fetch(statement)
    return found


def stop(spec: ProcessSpec, process: subprocess.Popen[bytes]) -> int:
    """Stop it as its supervisor would; its exit code. Does nothing to one that has ended."""
    process.send_signal(spec.stop_signal)
    try:
        return process.wait(timeout=spec.stop_within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextmanager
def passable_folder() -> Iterator[Path]:
    """A folder that other users may pass through: as root, PostgreSQL runs as one of them.

    Not below pytest's own: every session that begins closes that to others, also to the servers of one that runs.
    """
    with tempfile.TemporaryDirectory(prefix="blogstream-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)
