"""Starting and stopping a server outside of any event loop: the session's servers outlive every test's loop."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from sandbox.servers.postgres import a_connection
from sandbox.system.process import Spec

NOT_DURABLE = ("-cfsync=off", "-csynchronous_commit=off", "-cfull_page_writes=off")
"""Arguments of a PostgreSQL server that is not to survive a crash of the machine."""
_SHARED_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 * 2**30


def start_server(spec: Spec, log: Path) -> subprocess.Popen[bytes]:
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
            stop_server(spec, process)
            pytest.fail(f"{spec.name} did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
    return process


async def execute(dsn: str, statement: str) -> list[asyncpg.Record]:
    """One statement over a connection of its own: the rows that it brings."""
    async with a_connection(dsn) as connection:
        found: list[asyncpg.Record] = await connection.fetch(statement)
    return found


def stop_server(spec: Spec, process: subprocess.Popen[bytes]) -> int:
    """Stop it as its supervisor would; its exit code. Does nothing to one that has ended."""
    process.send_signal(spec.stop_signal)
    try:
        return process.wait(timeout=spec.stop_within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder for a server's data, in memory where the machine has room for it.

    As root, PostgreSQL runs as another user: other users may pass through the folder. It is not below pytest's own
    folder, because a session that begins closes that to others, also to the servers of a session that runs.
    """
    with tempfile.TemporaryDirectory(
        prefix="blogstream-test-", dir=_memory_disk(), ignore_cleanup_errors=True
    ) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def _memory_disk() -> Path | None:
    """Where Linux keeps files in memory, if it is large enough; `None` stands for the usual place.

    Kafka and PostgreSQL create hundreds of small files for every test: on a disk this takes most of their time.
    """
    if not os.access(_SHARED_MEMORY, os.W_OK):
        return None
    return _SHARED_MEMORY if shutil.disk_usage(_SHARED_MEMORY).free >= _ROOM_BYTES else None


@contextmanager
def temporary_database(postgres: str, template_database: str) -> Iterator[str]:
    """Create a clone of the migrated template and drop it afterwards; yields its DSN."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    asyncio.run(execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template_database}"))
    yield f"{postgres.rsplit('/', 1)[0]}/{name}"
    asyncio.run(execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))
