"""What a role that ingest logs in with sees of each table: row-level security, beside which its grants are judged.

It sees the rows of the store that `blogstream.store` names on its connection (`shared.postgres.rows_of`), those of all
stores for `*`, and none while nothing is named. Other roles see every row.
"""

import hashlib

import asyncpg

from shared.domain.errors import Unavailable

# The sub-select is carried out once a statement, not once a row. Of a CASE the planner supposes that half of the rows
# pass; of an OR one in a hundred, for which it would read and sort all of a store's jobs to show a page of twenty.
_SEEN = "CASE (SELECT current_setting('blogstream.store', true)) WHEN '*' THEN true ELSE {} END"
_OWN = _SEEN.format("instance_id = (SELECT current_setting('blogstream.store', true))")
_OF_A_JOB = _SEEN.format("EXISTS (SELECT FROM blog_generations WHERE id = job_id)")
_OF_A_DELIVERY = _SEEN.format("EXISTS (SELECT FROM webhook_deliveries WHERE id = delivery_id)")
ROW_CONDITIONS = {
    "blog_generations": _OWN,
    "blog_posts": _OF_A_JOB,
    "blog_steps": _OF_A_JOB,
    "store_budgets": _OWN,
    "store_outlooks": _OWN,
    "store_spend": _OWN,
    "stores": _OWN,
    "webhook_attempts": _OF_A_DELIVERY,
    "webhook_deliveries": _OWN,
    "webhook_secrets": _OWN,
}
_MADE = "SELECT polrelid::regclass::text AS table, polname AS policy FROM pg_policy WHERE starts_with(polname, $1)"
_OPEN = "SELECT oid::regclass::text FROM pg_class WHERE oid = ANY ($1::regclass[]) AND NOT relrowsecurity"


async def restrict_role(connection: asyncpg.Connection, role: str) -> None:
    """Make what is missing, and that only: a new policy holds up all who use its table for a moment. One of a release
    with other rules is replaced. `Unavailable` where row-level security is off."""
    if found := await connection.fetchval(_OPEN, list(ROW_CONDITIONS)):
        raise Unavailable(
            f"row-level security is off for {found}: run `python -m migrations up` first"
        )
    prefix = await _prefix(connection, role)
    made = await _made(connection, prefix)
    wanted = {(table, prefix + _digest(seen)) for table, seen in ROW_CONDITIONS.items()}
    to = await connection.fetchval("SELECT quote_ident($1)", role)
    for table, policy in sorted(wanted - made):
        await connection.execute(
            f"CREATE POLICY {policy} ON {table} AS RESTRICTIVE TO {to} USING ({ROW_CONDITIONS[table]})"
        )
    await _drop(connection, made - wanted)


async def unrestrict_role(connection: asyncpg.Connection, role: str) -> None:
    await _drop(connection, await _made(connection, await _prefix(connection, role)))


async def _made(connection: asyncpg.Connection, prefix: str) -> set[tuple[str, str]]:
    return {(row["table"], row["policy"]) for row in await connection.fetch(_MADE, prefix)}


async def _drop(connection: asyncpg.Connection, policies: set[tuple[str, str]]) -> None:
    for table, policy in sorted(policies):
        await connection.execute(f"DROP POLICY {policy} ON {table}")


async def _prefix(connection: asyncpg.Connection, role: str) -> str:
    """By the role's number: names may be too long, or hold anything."""
    oid: int = await connection.fetchval("SELECT oid FROM pg_roles WHERE rolname = $1", role)
    return f"one_store_{oid}_"


def _digest(seen: str) -> str:
    return hashlib.sha256(seen.encode()).hexdigest()[:12]
