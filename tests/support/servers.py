"""Starts and stops servers outside of any event loop: they outlive the loops of tests."""

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

from sandbox.servers.postgres import open_connection
from sandbox.system.process import ProcessSpec

NOT_DURABLE = ("-cfsync=off", "-csynchronous_commit=off", "-cfull_page_writes=off")
"""Arguments for a PostgreSQL server whose data may be lost when the machine crashes."""
_SHARED_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 * 2**30


def start_server(spec: ProcessSpec, log: Path) -> subprocess.Popen[bytes]:
    """Start a server and wait until it is ready; fails the test with its log otherwise."""
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
    """Execute one statement over a new connection and return its rows."""
    async with open_connection(dsn) as connection:
        found: list[asyncpg.Record] = await connection.fetch(statement)
    return found


def stop_server(spec: ProcessSpec, process: subprocess.Popen[bytes]) -> int:
    """Stop a server as its supervisor would and return its exit code."""
    process.send_signal(spec.stop_signal)
    try:
        return process.wait(timeout=spec.stop_within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextmanager
def server_folder() -> Iterator[Path]:
    """Create a folder for a server's data, in memory where the machine has room for it.

    Other users may pass through the folder: for root, PostgreSQL runs as another user. The folder
    is not below pytest's: each new session closes that one to others, also to running servers.
    """
    _remove_abandoned_folders()
    with tempfile.TemporaryDirectory(
        prefix=f"blogstream-test-{os.getpid()}-", dir=_memory_disk(), ignore_cleanup_errors=True
    ) as name:
        Path(name).chmod(0o711)
        yield Path(name)


def _memory_disk() -> Path | None:
    """Return the folder in memory, or `None` when it is missing or too small.

    Kafka and PostgreSQL create hundreds of small files for every test. On a disk this takes most
    of their time.
    """
    if not os.access(_SHARED_MEMORY, os.W_OK):
        return None
    return _SHARED_MEMORY if shutil.disk_usage(_SHARED_MEMORY).free >= _ROOM_BYTES else None


def _remove_abandoned_folders() -> None:
    """Delete the folders in memory of test processes that were killed; each holds up to 80 MB."""
    for folder in _SHARED_MEMORY.glob("blogstream-test-*-*"):
        process = folder.name.split("-")[2]
        if process.isdigit() and not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def temporary_database(postgres: str, template_database: str) -> Iterator[str]:
    """Clone the migrated template and drop the clone afterwards; yields its DSN."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    asyncio.run(execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template_database}"))
    yield f"{postgres.rsplit('/', 1)[0]}/{name}"
    asyncio.run(execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))
