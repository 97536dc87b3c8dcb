"""`stores copy`: everything of one store reaches the other cell, and nothing of another store."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from admin import store_copy
from admin.__main__ import run_command
from sandbox.servers.postgres import open_connection
from shared.domain.api_keys import create_key, get_or_create_webhook_secret, is_valid_key
from tests.support.backend import Backend, make_request
from tests.support.ingest import insert
from tests.support.servers import temporary_database

TABLES = (
    "blog_generations",
    "blog_steps",
    "blog_posts",
    "webhook_deliveries",
    "webhook_attempts",
    "webhook_secrets",
    "store_budgets",
    "store_spend",
    "api_keys",
)


@pytest.fixture
def other_database(postgres: str, template_database: str) -> Iterator[str]:
    with temporary_database(postgres, template_database) as dsn:
        yield dsn


@pytest.fixture
async def other(other_database: str) -> AsyncIterator[asyncpg.Connection]:
    async with open_connection(other_database) as connection:
        yield connection


@pytest.fixture(autouse=True)
def environment(
    backend: Backend, database: str, other_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("TARGET_DATABASE_URL", other_database)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", backend.settings.kafka_bootstrap_servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", backend.settings.kafka_topic_prefix)


async def copy(store: str = "store-a") -> int:
    return await asyncio.to_thread(run_command, ["stores", "copy", store], prog="admin")


async def insert_ended_job(backend: Backend, store: str) -> None:
    """Insert a job with a paid step, a post, a sent delivery and one that waits."""
    request = make_request(store=store)
    await insert(backend, request, "DONE")
    for statement in (
        "UPDATE blog_generations SET cost_nanousd = 5, charged_nanousd = 5 WHERE id = $1",
        "INSERT INTO blog_steps (job_id, step, state, attempt, cost_nanousd)"
        " VALUES ($1, 'outline', 'DONE', 1, 5)",
        "INSERT INTO blog_posts VALUES ($1, 'T', 's', 'm', '<p>x</p>', NULL)",
        "INSERT INTO webhook_deliveries (id, job_id, instance_id, url, payload, state)"
        " SELECT gen_random_uuid(), id, instance_id, 'https://x.example', '{}', kind.state"
        " FROM blog_generations, unnest(ARRAY['DELIVERED', 'WAITING']) AS kind (state)"
        " WHERE blog_generations.id = $1",
    ):
        await backend.database.execute(statement, request.id)


async def fill(backend: Backend, store: str) -> str:
    """Give a store two ended jobs and everything else; return its key."""
    database = backend.database
    for _ in range(2):
        await insert_ended_job(backend, store)
    await database.execute(
        "INSERT INTO webhook_attempts SELECT id, now(), 200, NULL, 0.1 FROM webhook_deliveries"
        " WHERE instance_id = $1",
        store,
    )
    await database.execute("INSERT INTO store_budgets VALUES ($1, 50, 0.8, 'ada')", store)
    await get_or_create_webhook_secret(database, store)
    return await create_key(database, store)


async def count_rows(connection: asyncpg.Connection) -> dict[str, int]:
    return {table: await connection.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


COPIED = {
    "blog_generations": 2,
    "blog_steps": 2,
    "blog_posts": 2,
    "webhook_deliveries": 2,
    "webhook_attempts": 2,
    "webhook_secrets": 1,
    "store_budgets": 1,
    "store_spend": 1,
    "api_keys": 1,
}
"""The rows of one store after `fill`; of its four deliveries two wait and stay."""


async def test_store_is_copied_with_everything_and_can_be_copied_again(
    backend: Backend, other: asyncpg.Connection
) -> None:
    key = await fill(backend, "store-a")
    await fill(backend, "store-b")
    for _ in range(2):
        assert await copy() == 0
        assert await count_rows(other) == COPIED
    assert await is_valid_key(other, key)
    assert await other.fetchval("SELECT spent_nanousd FROM store_spend") == 10
    jobs = "SELECT job::text FROM blog_generations AS job WHERE instance_id = 'store-a' ORDER BY id"
    assert await other.fetch(jobs) == await backend.database.fetch(jobs)
    states = await other.fetch("SELECT DISTINCT state FROM webhook_deliveries")
    assert [row["state"] for row in states] == ["DELIVERED"]


async def test_revoked_key_is_revoked_in_the_other_cell(
    backend: Backend, other: asyncpg.Connection
) -> None:
    key = await fill(backend, "store-a")
    assert await copy() == 0
    await backend.database.execute("UPDATE api_keys SET revoked_at = now()")
    before = await other.fetchval("SELECT changed_at FROM api_keys")
    assert await copy() == 0
    assert not await is_valid_key(other, key)
    assert await other.fetchval("SELECT changed_at FROM api_keys") > before


async def test_store_with_an_open_job_is_not_copied(
    backend: Backend, other: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    await fill(backend, "store-a")
    await insert(backend, make_request())
    assert await copy() == 1
    assert "1 jobs of store-a have not ended" in capsys.readouterr().err
    assert await count_rows(other) == dict.fromkeys(TABLES, 0)


async def test_copy_never_replaces_newer_jobs_of_the_other_cell(
    backend: Backend, other: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a copy in the wrong direction."""
    await fill(backend, "store-a")
    assert await copy() == 0
    await other.execute(
        "INSERT INTO blog_generations"
        " SELECT (jsonb_populate_record(job, jsonb_build_object('id', gen_random_uuid()))).*"
        " FROM blog_generations AS job LIMIT 1"
    )
    assert await copy() == 1
    assert "the other cell has 1 newer or open jobs of store-a" in capsys.readouterr().err
    assert await other.fetchval("SELECT count(*) FROM blog_generations") == 3


async def test_unknown_store_is_not_copied(backend: Backend) -> None:
    assert await copy("nobody") == 1


async def test_copy_waits_for_the_admission_of_accepted_requests(
    backend: Backend, other: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that no scheduler has read would run in the old cell after the copy."""
    monkeypatch.setattr(store_copy, "_ADMISSION_TIMEOUT_S", 1)
    await fill(backend, "store-a")
    await backend.submit(make_request())
    assert await copy() == 1
    assert await count_rows(other) == dict.fromkeys(TABLES, 0)
