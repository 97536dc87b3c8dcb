"""The session's servers: one broker and one database server.

Every test has its own topics and its own database.
"""

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from migrations import runner
from sandbox.servers import kafka as kafka_server
from sandbox.servers import postgres as postgres_server
from tests.support.fake_providers import StandIns, start_fake_providers
from tests.support.servers import (
    NOT_DURABLE,
    execute,
    server_folder,
    start_server,
    stop_server,
    temporary_database,
)

_TESTS = Path(__file__).parent
_LONGEST_MODULES = (
    "system/test_whole_system.py",
    "integration/cross_service/test_interleavings.py",
    "integration/metrics/test_exact_counts.py",
    "integration/metrics/test_service.py",
    "integration/generator/test_kill_at_each_step.py",
    "integration/generator/test_frequent_rebalances.py",
    "integration/cross_service/test_kafka_lost.py",
    "integration/generator/test_job_outcomes.py",
    "system/test_interrupted_demo.py",
    "system/test_demo_page.py",
    "system/test_two_cells.py",
    "integration/metrics/test_dashboard.py",
    "integration/ingest/test_dependencies_down.py",
    "integration/scheduler/test_service.py",
    "integration/scheduler/test_faults.py",
    "contract/test_interface_fuzz.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest modules first.

    Begun last, one of them would keep a single process busy at the end.
    """
    order = {_TESTS / name: number for number, name in enumerate(_LONGEST_MODULES)}
    missing = [path for path in order if not path.is_file()]
    assert not missing, f"_LONGEST_MODULES lists missing files: {missing}"

    def rank(item: pytest.Item) -> int:
        return order.get(item.path, len(order))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Start the session's broker; yields its bootstrap address."""
    with server_folder() as folder:
        spec, bootstrap = kafka_server.prepare_server(folder / "kafka", print)
        process = start_server(spec, folder / "server.log")
        yield bootstrap
        stop_server(spec, process)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start the session's PostgreSQL; yields the DSN of its maintenance database."""
    with server_folder() as folder:
        spec, dsn = postgres_server.prepare_server(folder / "postgres", print)
        process = start_server(
            replace(spec, argv=(*spec.argv, *NOT_DURABLE)), folder / "server.log"
        )
        yield dsn
        stop_server(spec, process)


@pytest.fixture(scope="session")
def template_database(postgres: str) -> str:
    """Migrate a database once and return its name; tests get clones of it."""
    asyncio.run(execute(postgres, "CREATE DATABASE template_blogstream"))
    asyncio.run(runner.apply_missing(postgres.rsplit("/", 1)[0] + "/template_blogstream"))
    return "template_blogstream"


@pytest.fixture
def database(postgres: str, template_database: str) -> Iterator[str]:
    """Clone the migrated database for one test; yields its DSN."""
    with temporary_database(postgres, template_database) as dsn:
        yield dsn


@pytest.fixture
def topic_prefix() -> str:
    """Return a prefix of topic and group names that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture(scope="session")
def standins() -> Iterator[StandIns]:
    """Start both stand-ins, quick and with generous limits.

    Faults are scripted for one job, so tests do not meet each other's.
    """
    with start_fake_providers(
        OPENAI_RPM="60000", OPENAI_TPM="100000000", REPLICATE_RPM="60000"
    ) as both:
        yield both
