"""One broker and one database server a session; every test has topics and a database of its own on them."""

import asyncio
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from migrations import runner
from sandbox import kafka as kafka_server
from sandbox import postgres as postgres_server
from sandbox.process import Spec
from tests.standins import Standins, running


def _start(spec: Spec, log: Path) -> subprocess.Popen[bytes]:
    """Start a server outside of any event loop: the session's servers outlive every test's loop."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            spec.argv, env=dict(spec.env), stdout=output, stderr=subprocess.STDOUT, user=spec.user,
            extra_groups=[] if spec.user else None, start_new_session=True,
        )  # fmt: skip
    assert spec.ready_check is not None
    give_up = time.monotonic() + spec.ready_within_s
    while not asyncio.run(spec.ready_check()):
        if process.poll() is not None or time.monotonic() > give_up:
            _stop(spec, process)
            pytest.fail(f"{spec.name} did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
    return process


def _stop(spec: Spec, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(spec.stop_signal)  # does nothing to one that has ended
    try:
        process.wait(timeout=spec.stop_within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The session's broker: its bootstrap address."""
    folder = tmp_path_factory.mktemp("kafka")
    spec, bootstrap = kafka_server.prepare(folder, print)
    process = _start(spec, folder / "server.log")
    yield bootstrap
    _stop(spec, process)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The session's PostgreSQL: the DSN of its maintenance database."""
    folder = tmp_path_factory.mktemp("postgres")
    if os.geteuid() == 0:  # the server runs as another user, who must be let through
        for part in (folder, folder.parent, folder.parent.parent):
            part.chmod(0o711)
    spec, dsn = postgres_server.prepare(folder, print)
    process = _start(spec, folder / "server.log")
    yield dsn
    _stop(spec, process)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def template_database(postgres: str) -> str:
    """A database migrated once; tests get clones of it."""
    asyncio.run(_execute(postgres, "CREATE DATABASE template_blogstream"))
    asyncio.run(runner.up(postgres.rsplit("/", 1)[0] + "/template_blogstream"))
    return "template_blogstream"


@pytest.fixture
def database(postgres: str, template_database: str) -> Iterator[str]:
    """A fresh migrated database: its DSN."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    asyncio.run(_execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template_database}"))
    yield f"{postgres.rsplit('/', 1)[0]}/{name}"
    asyncio.run(_execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def topic_prefix() -> str:
    """Tests share the broker and not the topics."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture(scope="session")
def standins() -> Iterator[Standins]:
    """Both stand-ins, quick and with generous limits. Faults are scripted by job, so tests do not meet each other's."""
    with running(OPENAI_RPM="60000", OPENAI_TPM="100000000", REPLICATE_RPM="60000") as both:
        yield both
