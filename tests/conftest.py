"""One broker and one database server a session; every test has topics and a database of its own on them."""

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from migrations import runner
from sandbox.servers import kafka as kafka_server
from sandbox.servers import postgres as postgres_server
from tests.support.fake_providers import StandIns, start_stand_ins
from tests.support.servers import NOT_DURABLE, execute, server_folder, start, stop


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The session's broker: its bootstrap address."""
    with server_folder() as folder:
        spec, bootstrap = kafka_server.prepare(folder / "kafka", print)
        process = start(spec, folder / "server.log")
        yield bootstrap
        stop(spec, process)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The session's PostgreSQL: the DSN of its maintenance database. A crash of the machine may damage its data."""
    with server_folder() as folder:
        spec, dsn = postgres_server.prepare(folder / "postgres", print)
        process = start(replace(spec, argv=(*spec.argv, *NOT_DURABLE)), folder / "server.log")
        yield dsn
        stop(spec, process)


@pytest.fixture(scope="session")
def template_database(postgres: str) -> str:
    """A database migrated once; tests get clones of it."""
    asyncio.run(execute(postgres, "CREATE DATABASE template_blogstream"))
    asyncio.run(runner.up(postgres.rsplit("/", 1)[0] + "/template_blogstream"))
    return "template_blogstream"


@contextmanager
def a_database(postgres: str, template_database: str) -> Iterator[str]:
    """A fresh migrated database for a block: its DSN."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    asyncio.run(execute(postgres, f"CREATE DATABASE {name} TEMPLATE {template_database}"))
    yield f"{postgres.rsplit('/', 1)[0]}/{name}"
    asyncio.run(execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def database(postgres: str, template_database: str) -> Iterator[str]:
    """A test's own database."""
    with a_database(postgres, template_database) as dsn:
        yield dsn


@pytest.fixture
def topic_prefix() -> str:
    """Tests share the broker and not the topics."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture(scope="session")
def standins() -> Iterator[StandIns]:
    """Both stand-ins, quick and with generous limits. Faults are scripted by job, so tests do not meet each other's."""
    with start_stand_ins(OPENAI_RPM="60000", OPENAI_TPM="100000000", REPLICATE_RPM="60000") as both:
        yield both
