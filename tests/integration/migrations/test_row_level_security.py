"""Row-level security: ingest's role sees the rows of one store, whatever its queries say."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from migrations import grants, policies, runner
from migrations.files import load_migrations
from sandbox.servers.postgres import open_connection
from services.ingest.budgets import repository as budget_repository
from services.ingest.jobs import repository as job_repository
from services.ingest.jobs.repository import JobRepository
from shared.domain.api_keys import DatabaseClient, create_key, create_operator_key
from shared.domain.errors import Unavailable
from shared.domain.stores import ALL_STORES
from shared.runtime.postgres import (
    NO_STORE,
    STORE_SETTING,
    connection_for_store,
    open_pool,
)
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend
from tests.support.ingest import PATH, start_ingest
from tests.support.migrations import dsn_of_role
from tests.support.servers import execute

ROWS_OF_TWO_STORES = (
    "INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, created_at,"
    " status)"
    " SELECT gen_random_uuid(), store, 'keyword', 'tea', '{}', now(), 'PENDING'"
    "   FROM unnest('{shop,other}'::text[]) AS store",
    "INSERT INTO blog_steps (job_id, step, state, attempt, cost_nanousd)"
    " SELECT id, 'outline', 'DONE', 1, 7 FROM blog_generations",
    "INSERT INTO blog_posts SELECT id, 'Tea', 'tea', '', '<p>', NULL FROM blog_generations",
    "INSERT INTO stores (instance_id) VALUES ('shop'), ('other')",
    "INSERT INTO store_budgets (instance_id, monthly_nanousd, set_by) VALUES ('shop', 7, 'x'),"
    " ('other', 7, 'x')",
    "INSERT INTO store_outlooks (instance_id, reason, queued, ahead, said_at)"
    " VALUES ('shop', 'queue', 1, 0, now()), ('other', 'queue', 1, 0, now())",
    "INSERT INTO webhook_secrets (instance_id, secret) VALUES ('shop', 's1'), ('other', 's2')",
    "INSERT INTO webhook_deliveries (id, job_id, instance_id, url, payload)"
    " SELECT id, id, instance_id, 'https://shop.example', '{}' FROM blog_generations",
    "INSERT INTO webhook_attempts (delivery_id, at, status, seconds) SELECT id, now(), 500, 1"
    " FROM webhook_deliveries",
)
TABLES = (
    "blog_generations",
    "blog_posts",
    "blog_steps",
    "store_budgets",
    "store_outlooks",
    "store_spend",
    "stores",
    "webhook_attempts",
    "webhook_deliveries",
    "webhook_secrets",
)
READABLE = {"stores": "instance_id"}


async def count_visible_rows(connection: DatabaseClient) -> dict[str, int]:
    return {
        table: await connection.fetchval(f"SELECT count({READABLE.get(table, '*')}) FROM {table}")
        for table in TABLES
    }


@pytest.fixture
async def front(database: str, role: str) -> str:
    """The DSN of ingest's role for a database with rows of two stores."""
    for statement in ROWS_OF_TWO_STORES:
        await execute(database, statement)
    await grants.grant_role(database, role, ["ingest"])
    return dsn_of_role(database, role)


@pytest.fixture
async def pool(front: str) -> AsyncIterator[asyncpg.Pool]:
    settings = PostgresSettings(database_url=SecretStr(front), db_pool_min=1, db_pool_max=1)
    async with await open_pool(settings, name="front", visible_store=NO_STORE) as opened:
        yield opened


async def test_connection_without_a_store_sees_no_rows(front: str) -> None:
    async with open_connection(front) as connection:
        assert await count_visible_rows(connection) == dict.fromkeys(TABLES, 0)
        assert (
            await connection.execute("UPDATE blog_generations SET status = 'CANCELLED'")
            == "UPDATE 0"
        )


async def test_connection_for_a_store_reaches_its_rows_only(
    pool: asyncpg.Pool, database: str
) -> None:
    async with connection_for_store(pool, "shop") as rows:
        assert await count_visible_rows(rows) == dict.fromkeys(TABLES, 1)
        assert await rows.fetchval("SELECT instance_id FROM blog_generations") == "shop"
        assert await rows.fetchval("SELECT secret FROM webhook_secrets") == "s1"
        assert await rows.execute("UPDATE blog_generations SET status = 'CANCELLED'") == "UPDATE 1"
        assert await rows.execute("DELETE FROM store_budgets") == "DELETE 1"
        for inserted in (
            "INSERT INTO webhook_secrets (instance_id, secret) VALUES ('other', 'mine')",
            "INSERT INTO store_budgets (instance_id, monthly_nanousd, set_by) VALUES ('third', 7,"
            " 'x')",
            "INSERT INTO webhook_deliveries (id, job_id, instance_id, url, payload)"
            " VALUES (gen_random_uuid(), gen_random_uuid(), 'other', '', '')",
            "INSERT INTO webhook_attempts (delivery_id, at, seconds) VALUES (gen_random_uuid(),"
            " now(), 1)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await rows.execute(inserted)
    async with connection_for_store(pool, ALL_STORES) as rows:
        assert await count_visible_rows(rows) == dict.fromkeys(TABLES, 2) | {"store_budgets": 1}
    left = await execute(
        database, "SELECT instance_id FROM blog_generations WHERE status = 'PENDING'"
    )
    assert [row["instance_id"] for row in left] == ["other"]


async def test_released_connection_sees_no_rows_again(pool: asyncpg.Pool) -> None:
    """The pool has one connection, so it is the same one."""
    async with connection_for_store(pool, "shop") as rows:
        assert await rows.fetchval("SELECT count(*) FROM blog_generations") == 1
    assert await pool.fetchval("SELECT count(*) FROM blog_generations") == 0
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with connection_for_store(pool, "shop") as rows:
            await rows.execute("SELECT 1 / 0")
    assert await pool.fetchval("SELECT count(*) FROM blog_generations") == 0
    assert await pool.fetchval(f"SELECT current_setting('{STORE_SETTING}')") == NO_STORE


async def test_query_without_a_store_condition_shows_own_jobs_only(
    backend: Backend, front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ingest's queries run without their conditions on the store."""
    removed = 0
    for module in (job_repository, budget_repository):
        queries = {}
        for name, query in module._QUERIES.items():
            queries[name], found = re.subn(
                r"\((\$2::text IS NULL OR) job.instance_id = \$2\)", r"(\1 true)", query
            )
            queries[name], more = re.subn(
                r"WHERE (job\.)?instance_id = \$1 AND", "WHERE $1::text <> '' AND", queries[name]
            )
            removed += found + more
        monkeypatch.setattr(module, "_QUERIES", queries)
    assert removed == 6, "of job, budget, list (twice), cancel and retry"
    rows = await backend.database.fetch("SELECT instance_id, id FROM blog_generations")
    jobs = {row["instance_id"]: str(row["id"]) for row in rows}
    async with start_ingest(backend, front, tmp_path) as ingest:
        assert [item["id"] for item in (await ingest.get(PATH)).json()["items"]] == [jobs["shop"]]
        assert (await ingest.get(f"{PATH}/{jobs['shop']}")).status_code == 200
        assert (await ingest.get(f"{PATH}/{jobs['other']}")).status_code == 404
        other = {"Authorization": f"Bearer {await create_key(backend.database, 'other')}"}
        for change in ("cancel", "retry"):
            refused = await ingest.http.post(f"{PATH}/{jobs['shop']}/{change}", headers=other)
            assert refused.status_code == 404
        operator = await create_operator_key(backend.database, "ada")
        assert (await ingest.get(f"{PATH}/{jobs['other']}", key=operator)).status_code == 200


async def test_role_without_ingest_sees_every_row(
    front: str,
    database: str,
    role: str,
) -> None:
    async with open_connection(front) as connection:
        await grants.grant_role(database, role, ["ingest", "scheduler"])
        assert await connection.fetchval("SELECT count(*) FROM blog_generations") == 0
        await grants.grant_role(database, role, ["scheduler"])
        assert await connection.fetchval("SELECT count(*) FROM blog_generations") == 2


async def test_migration_alone_restricts_no_role(
    front: str,
    database: str,
    role: str,
) -> None:
    """Up, down and up again, with and without the policies of a role."""
    steps = len([one for one in load_migrations() if one.version >= "0013"])
    async with open_connection(front) as old:
        assert await old.fetchval("SELECT count(*) FROM blog_posts") == 0
        await runner.revert_newest(database, steps=steps)
        assert await count_visible_rows(old) == dict.fromkeys(TABLES, 2)
        with pytest.raises(
            Unavailable, match="row-level security is off for blog_generations: run"
        ):
            await grants.grant_role(database, role, ["ingest"])
        await runner.apply_missing(database)
        assert await count_visible_rows(old) == dict.fromkeys(TABLES, 2)
        await grants.grant_role(database, role, ["ingest"])
        assert await count_visible_rows(old) == dict.fromkeys(TABLES, 0)


async def test_ingest_detects_whether_its_role_is_restricted(
    pool: asyncpg.Pool,
    database: str,
    role: str,
) -> None:
    assert await JobRepository(pool).is_restricted()
    await grants.grant_role(database, role, ["scheduler"])
    assert not await JobRepository(pool).is_restricted()
    async with await open_pool(
        PostgresSettings(database_url=SecretStr(database)), name="owner"
    ) as owners:
        assert not await JobRepository(owners).is_restricted()


async def test_stale_policy_is_replaced_and_other_policies_stay(
    front: str,
    database: str,
    role: str,
) -> None:
    made = "SELECT polname FROM pg_policy WHERE polrelid = 'stores'::regclass AND NOT polpermissive"
    ((policy,),) = await execute(database, made)
    stale = policy[:-12] + "0" * 12
    await execute(database, f"ALTER POLICY {policy} ON stores RENAME TO {stale}")
    await execute(
        database, f'CREATE POLICY of_the_operator ON stores AS RESTRICTIVE TO "{role}" USING (true)'
    )
    await grants.grant_role(database, role, ["ingest"])
    assert {row[0] for row in await execute(database, made)} == {policy, "of_the_operator"}
    await grants.grant_role(database, role, ["metrics"])
    assert [row[0] for row in await execute(database, made)] == ["of_the_operator"]


async def test_every_table_with_rows_of_stores_is_restricted(database: str) -> None:
    """Except keys: ingest compares a caller's hash with all hashes to find the store."""
    of_stores = await execute(
        database,
        "SELECT table_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND column_name IN ('instance_id', 'job_id',"
        " 'delivery_id')",
    )
    unrestricted = {"api_keys", "provider_calls"}
    assert (
        {row["table_name"] for row in of_stores} - unrestricted
        == set(TABLES)
        == policies.ROW_CONDITIONS.keys()
    )
