"""Row-level security for ingest's role, beside its grants.

The role sees the rows of the store that `blogstream.store` names on its connection
(`shared.runtime.postgres.connection_for_store`), all rows for `*`, and no rows while it is not set.
Other roles see every row.
"""

import hashlib

import asyncpg

from shared.domain.errors import Unavailable

# The sub-select runs once a statement, not once a row. The planner expects a CASE to pass half of
# the rows and an OR one in a hundred; for an OR it would read and sort all of a store's jobs to
# show a page of twenty.
_VISIBLE = "CASE (SELECT current_setting('blogstream.store', true)) WHEN '*' THEN true ELSE {} END"
_OF_A_STORE = _VISIBLE.format("instance_id = (SELECT current_setting('blogstream.store', true))")
_OF_A_JOB = _VISIBLE.format("EXISTS (SELECT FROM blog_generations WHERE id = job_id)")
_OF_A_DELIVERY = _VISIBLE.format("EXISTS (SELECT FROM webhook_deliveries WHERE id = delivery_id)")
ROW_CONDITIONS = {
    "blog_generations": _OF_A_STORE,
    "blog_posts": _OF_A_JOB,
    "blog_steps": _OF_A_JOB,
    "store_budgets": _OF_A_STORE,
    "store_outlooks": _OF_A_STORE,
    "store_spend": _OF_A_STORE,
    "stores": _OF_A_STORE,
    "webhook_attempts": _OF_A_DELIVERY,
    "webhook_deliveries": _OF_A_STORE,
    "webhook_secrets": _OF_A_STORE,
}
_EXISTING_POLICIES = """
SELECT polrelid::regclass::text AS table, polname AS policy FROM pg_policy
 WHERE starts_with(polname, $1)"""
_UNPROTECTED_TABLES = """
SELECT oid::regclass::text FROM pg_class
 WHERE oid = ANY ($1::regclass[]) AND NOT relrowsecurity"""


async def restrict_role(connection: asyncpg.Connection, role: str) -> None:
    """Create only the missing policies: a new policy briefly blocks the users of its table.

    Policies of another release are replaced. `Unavailable` where row-level security is off.
    """
    if found := await connection.fetchval(_UNPROTECTED_TABLES, list(ROW_CONDITIONS)):
        raise Unavailable(
            f"row-level security is off for {found}: run `python -m migrations up` first"
        )
    prefix = await _policy_prefix(connection, role)
    existing = await _find_policies(connection, prefix)
    wanted = {(table, prefix + _digest(condition)) for table, condition in ROW_CONDITIONS.items()}
    to = await connection.fetchval("SELECT quote_ident($1)", role)
    for table, policy in sorted(wanted - existing):
        await connection.execute(
            f"CREATE POLICY {policy} ON {table} AS RESTRICTIVE TO {to}"
            f" USING ({ROW_CONDITIONS[table]})"
        )
    await _drop_policies(connection, existing - wanted)


async def unrestrict_role(connection: asyncpg.Connection, role: str) -> None:
    """Drop the policies of a role, so that it sees every row."""
    await _drop_policies(
        connection, await _find_policies(connection, await _policy_prefix(connection, role))
    )


async def _find_policies(connection: asyncpg.Connection, prefix: str) -> set[tuple[str, str]]:
    return {
        (row["table"], row["policy"]) for row in await connection.fetch(_EXISTING_POLICIES, prefix)
    }


async def _drop_policies(connection: asyncpg.Connection, policies: set[tuple[str, str]]) -> None:
    for table, policy in sorted(policies):
        await connection.execute(f"DROP POLICY {policy} ON {table}")


async def _policy_prefix(connection: asyncpg.Connection, role: str) -> str:
    """The prefix of the role's policies. It has the role's oid, because a name may be too long."""
    oid: int = await connection.fetchval("SELECT oid FROM pg_roles WHERE rolname = $1", role)
    return f"one_store_{oid}_"


def _digest(condition: str) -> str:
    return hashlib.sha256(condition.encode()).hexdigest()[:12]
