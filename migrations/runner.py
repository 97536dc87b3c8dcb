"""Applies and reverts migrations, one process at a time.

The lock is an advisory lock that is polled. `CREATE INDEX CONCURRENTLY` waits for every open
transaction, so a session blocked inside `pg_advisory_lock` would deadlock with it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from migrations.files import Migration, load_migrations, split_statements
from shared.domain.errors import Unavailable
from shared.runtime.postgres import connect

_LOCK = 0x626C6F67  # 'blog': any number that all processes use
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version text PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationState:
    version: str
    name: str
    applied_at: datetime | None
    changed: bool
    """The file has changed since it was applied."""


async def list_states(dsn: str, *, deadline_s: float = 60) -> list[MigrationState]:
    """List every migration and when it was applied. Reads only."""
    connection = await connect(dsn, deadline_s=deadline_s)
    try:
        exists = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
        rows = await connection.fetch("SELECT * FROM schema_migrations") if exists else []
    finally:
        await connection.close()
    applied = {row["version"]: row for row in rows}
    return [
        _build_state(migration, applied.get(migration.version)) for migration in load_migrations()
    ]


def _build_state(migration: Migration, row: asyncpg.Record | None) -> MigrationState:
    return MigrationState(
        version=migration.version,
        name=migration.name,
        applied_at=row["applied_at"] if row else None,
        changed=row is not None and row["checksum"] != migration.checksum,
    )


async def apply_missing(dsn: str, *, deadline_s: float = 60) -> list[Migration]:
    """Apply missing migrations in order. Concurrent calls all succeed; each change is made once."""
    async with hold_migration_lock(dsn, deadline_s) as connection:
        applied = {
            row["version"]
            for row in await connection.fetch("SELECT version FROM schema_migrations")
        }
        missing = [migration for migration in load_migrations() if migration.version not in applied]
        for migration in missing:
            await _apply(connection, migration)
        return missing


async def revert_newest(dsn: str, *, steps: int = 1, deadline_s: float = 60) -> list[Migration]:
    """Revert the last `steps` migrations, newest first. Drops tables: back up before."""
    async with hold_migration_lock(dsn, deadline_s) as connection:
        rows = await connection.fetch(
            "SELECT version FROM schema_migrations ORDER BY version DESC LIMIT $1", steps
        )
        known = {migration.version: migration for migration in load_migrations()}
        unknown = [row["version"] for row in rows if row["version"] not in known]
        if unknown:
            raise Unavailable(
                f"the database has migration {unknown[0]}, which this release does not know"
            )
        reverted = [known[row["version"]] for row in rows]
        for migration in reverted:
            async with connection.transaction():
                await connection.execute(migration.down)
                await connection.execute(
                    "DELETE FROM schema_migrations WHERE version = $1", migration.version
                )
        return reverted


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    record = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"
    values = (migration.version, migration.name, migration.checksum)
    if migration.transactional:
        async with connection.transaction():
            await connection.execute(migration.up)
            await connection.execute(record, *values)
        return
    for statement in split_statements(migration.up):
        await connection.execute(statement)
    await connection.execute(record, *values)


@asynccontextmanager
async def hold_migration_lock(dsn: str, deadline_s: float) -> AsyncIterator[asyncpg.Connection]:
    """Hold the migration lock. Yields a connection; creates the table `schema_migrations`."""
    connection = await connect(dsn, deadline_s=deadline_s)
    try:
        await _acquire_lock(connection, max(deadline_s, 60))
        await connection.execute(_TABLE)
        yield connection
    finally:
        await connection.close()  # releases the advisory lock


async def _acquire_lock(connection: asyncpg.Connection, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise Unavailable(
            "another migration has been running for too long; see pg_stat_activity"
        ) from None
