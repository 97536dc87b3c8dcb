"""Migrations on a real server: concurrent runs, down and up again, and the operators' queries."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from migrations import runner
from migrations.files import load_migrations
from shared.domain.errors import Unavailable
from shared.runtime.postgres import open_pool
from shared.runtime.settings import PostgresSettings
from tests.support.migrations import run_migrations
from tests.support.processes import PROGRAMS, run_command
from tests.support.servers import execute

OPERATORS_QUERIES = (
    "SELECT COUNT(*) AS pending_count FROM blog_generations WHERE status = 'PENDING'",
    """SELECT COUNT(*) AS completed_last_hour, ROUND(COUNT(*) / 60.0, 1) AS blogs_per_minute
         FROM blog_generations WHERE status = 'DONE' AND finished_at > NOW() - INTERVAL '1 hour'""",
    """SELECT COUNT(CASE WHEN status = 'FAILED' THEN 1 END) AS failed, COUNT(*) AS total,
              ROUND(100.0 * COUNT(CASE WHEN status = 'FAILED' THEN 1 END)
                    / NULLIF(COUNT(*), 0), 2) AS error_rate
         FROM blog_generations WHERE created_at > NOW() - INTERVAL '1 hour'""",
    "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'blog_generations' ORDER BY"
    " indexname",
    "SELECT status, COUNT(*) FROM blog_generations WHERE source_id LIKE 'test-load-%' GROUP BY"
    " status",
)


@pytest.fixture
def empty_database(postgres: str) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex[:12]}"
    asyncio.run(execute(postgres, f"CREATE DATABASE {name}"))
    yield f"{postgres.rsplit('/', 1)[0]}/{name}"
    asyncio.run(execute(postgres, f"DROP DATABASE {name} WITH (FORCE)"))


async def test_service_without_tables_reports_one_clear_line(
    empty_database: str,
) -> None:
    settings = PostgresSettings.model_validate({"database_url": empty_database})
    with pytest.raises(Unavailable, match="has no tables of ours: run `python -m migrations up`"):
        await open_pool(settings, name="service")


@pytest.mark.parametrize("dsn", ["garbage", "postgresql://u@h:abc/x", "mysql://u@h/x"])
async def test_invalid_dsn_is_one_clear_line(dsn: str) -> None:
    with pytest.raises(Unavailable, match="DATABASE_URL cannot be understood"):
        await runner.list_states(dsn)


async def test_four_concurrent_runs_all_succeed(empty_database: str) -> None:
    outcomes = await asyncio.gather(*(run_migrations(empty_database, "up") for _ in range(4)))
    assert [code for code, _ in outcomes] == [0, 0, 0, 0]
    output = "".join(out for _, out in outcomes)
    assert output.count("[Migration] Blog generation indexes optimized for high concurrency") == 1
    assert all(state.applied_at for state in await runner.list_states(empty_database))


async def test_up_down_and_up_again(empty_database: str) -> None:
    everything = [migration.version for migration in load_migrations()]
    assert [m.version for m in await runner.apply_missing(empty_database)] == everything
    assert await runner.apply_missing(empty_database) == []
    code, out = await run_migrations(empty_database, "down", "--steps", "99")
    assert code == 0, out
    assert (
        await execute(
            empty_database, "SELECT 1 FROM pg_tables WHERE tablename = 'blog_generations'"
        )
        == []
    )
    assert not any(state.applied_at for state in await runner.list_states(empty_database))
    assert [m.version for m in await runner.apply_missing(empty_database)] == everything


@pytest.mark.parametrize("steps", ["-1", "0", "all"])
async def test_invalid_steps_are_wrong_usage(postgres: str, steps: str) -> None:
    code, out = await run_migrations(postgres, "down", "--steps", steps)
    assert code == 2
    assert "argument --steps" in out
    assert "Traceback" not in out


ROWS = (
    "INSERT INTO blog_generations (id, instance_id, source_type, source_id, request, created_at,"
    " status, cost_nanousd)"
    " VALUES (gen_random_uuid(), 'shop', 'keyword', 'tea', '{}', now(), 'DONE', 7),"
    " (gen_random_uuid(), 'shop', 'keyword', 'oil', '{}', now(), 'PENDING', 0)",
    "INSERT INTO blog_steps (job_id, step, state, attempt, cost_nanousd)"
    " SELECT id, 'outline', 'DONE', 1, 7 FROM blog_generations WHERE status = 'DONE'",
    "INSERT INTO blog_posts SELECT id, 'Tea', 'tea', '', '<p>', NULL FROM blog_generations WHERE"
    " status = 'DONE'",
    "INSERT INTO stores (instance_id, weight, served_nanousd, account_id) VALUES ('shop', 2, 7,"
    " 'chain')",
    "INSERT INTO api_keys (id, instance_id, hash, hint) VALUES ('k1', 'shop', 'h1', '')",
    "INSERT INTO api_keys (id, instance_id, hash, hint, scope, name) VALUES ('k2', '*', 'h2', '',"
    " 'operator', 'ada')",
)
KEPT_QUERIES = (
    "SELECT id, instance_id, status, source_id, created_at, cost_nanousd FROM blog_generations"
    " ORDER BY id",
    "SELECT job_id, step, state, cost_nanousd FROM blog_steps",
    "SELECT * FROM blog_posts",
    "SELECT instance_id, weight, served_nanousd FROM stores",
    "SELECT id, instance_id, hash FROM api_keys WHERE instance_id <> '*'",
)


async def test_data_survives_down_and_up(empty_database: str) -> None:
    """Down to the first two migrations: jobs, costs, posts and keys stay."""
    await runner.apply_missing(empty_database)
    for statement in ROWS:
        await execute(empty_database, statement)
    before = [await execute(empty_database, query) for query in KEPT_QUERIES]
    code, out = await run_migrations(
        empty_database, "down", "--steps", str(len(load_migrations()) - 2)
    )
    assert code == 0, out
    assert [await execute(empty_database, query) for query in KEPT_QUERIES] == before
    code, out = await run_migrations(empty_database, "up")
    assert code == 0, out
    assert [await execute(empty_database, query) for query in KEPT_QUERIES] == before
    assert await execute(empty_database, "SELECT 1 FROM api_keys WHERE scope = 'operator'") == []
    assert [
        row["account_id"] for row in await execute(empty_database, "SELECT account_id FROM stores")
    ] == [None]
    (booked,) = await execute(empty_database, "SELECT instance_id, spent_nanousd FROM store_spend")
    assert tuple(booked) == ("shop", 7), "earlier spend is booked"


LATER_ROWS = (
    "INSERT INTO webhook_secrets (instance_id, secret) VALUES ('shop', 'whsec_x')",
    "INSERT INTO webhook_deliveries (id, job_id, instance_id, url, payload)"
    " SELECT id, id, 'shop', 'https://shop.example', '{}' FROM blog_generations",
    "INSERT INTO webhook_attempts (delivery_id, at, status, seconds) SELECT id, now(), 500, 1"
    " FROM webhook_deliveries",
    "INSERT INTO store_budgets (instance_id, monthly_nanousd, set_by) VALUES ('shop', 7,"
    " 'operator x')",
)
TABLES = ("webhook_secrets", "webhook_deliveries", "webhook_attempts", "store_budgets")


async def test_tables_dropped_by_down_are_restored_from_a_backup(
    empty_database: str, tmp_path: Path
) -> None:
    """Webhooks and budgets, as in the runbook."""

    async def everything() -> list[list[asyncpg.Record]]:
        return [
            await execute(empty_database, f"SELECT * FROM {table} ORDER BY 1") for table in TABLES
        ]

    await runner.apply_missing(empty_database)
    for statement in ROWS + LATER_ROWS:
        await execute(empty_database, statement)
    before, dump = await everything(), tmp_path / "backup.dump"
    assert all(before)
    await run_command(PROGRAMS / "pg_dump", "--format=custom", f"--file={dump}", empty_database)
    await runner.revert_newest(
        empty_database, steps=len([one for one in load_migrations() if one.version >= "0009"])
    )
    await runner.apply_missing(empty_database)
    assert await everything() == [[]] * len(TABLES)
    for table in TABLES:
        await run_command(
            PROGRAMS / "pg_restore",
            "--data-only",
            f"--table={table}",
            f"--dbname={empty_database}",
            dump,
        )
    assert await everything() == before


async def test_unknown_migration_is_not_reverted(empty_database: str) -> None:
    await runner.apply_missing(empty_database)
    await execute(
        empty_database, "INSERT INTO schema_migrations VALUES ('9999', 'of_a_later_release', '')"
    )
    code, out = await run_migrations(empty_database, "down")
    assert code == 3
    assert "the database has migration 9999, which this release does not know" in out


async def test_status_lists_applied_migrations(empty_database: str) -> None:
    code, out = await run_migrations(empty_database, "status")
    assert code == 0
    assert "0001 blog_generations: pending" in out
    await runner.apply_missing(empty_database)
    _, out = await run_migrations(empty_database, "status")
    assert "0001 blog_generations: applied" in out
    assert "pending" not in out


@pytest.mark.parametrize("query", OPERATORS_QUERIES)
async def test_operators_query_runs_as_documented(database: str, query: str) -> None:
    await execute(database, query)


async def test_indexes_have_their_documented_names(database: str) -> None:
    names = {row["indexname"] for row in await execute(database, OPERATORS_QUERIES[3])}
    assert {"idx_blog_generations_pending", "idx_blog_generations_instance_status"} <= names


async def test_unreachable_database_is_one_clear_line() -> None:
    with pytest.raises(
        Unavailable, match=r"PostgreSQL at 127\.0\.0\.1:1/nowhere did not answer within 0\.1 s"
    ):
        await runner.apply_missing(
            "postgresql://u:planted-secret@127.0.0.1:1/nowhere", deadline_s=0.1
        )
