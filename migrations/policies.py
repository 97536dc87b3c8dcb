"""What a role that ingest logs in with sees of each table: row-level security, beside which its grants are judged.

It sees the rows of the store that `blogstream.store` names on its connection (`shared.postgres.rows_of`), those of all
stores for `*`, and none while nothing is named. Other roles see every row.
"""

import asyncpg

# The sub-select is carried out once a statement, not once a row. Of a CASE the planner supposes that half of the rows
# pass; of an OR one in a hundred, for which it would read and sort all of a store's jobs to show a page of twenty.
_SEEN = "CASE (SELECT current_setting('blogstream.store', true)) WHEN '*' THEN true ELSE {} END"
_OWN = _SEEN.format("instance_id = (SELECT current_setting('blogstream.store', true))")
_OF_A_JOB = _SEEN.format("EXISTS (SELECT FROM blog_generations WHERE id = job_id)")
_OF_A_DELIVERY = _SEEN.format("EXISTS (SELECT FROM webhook_deliveries WHERE id = delivery_id)")
RESTRICTED = {
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
_OF_ROLE = """
SELECT polrelid::regclass::text AS "table", quote_ident(polname) AS policy
  FROM pg_policy WHERE NOT polpermissive AND polroles = ARRAY[(SELECT oid FROM pg_roles WHERE rolname = $1)]"""


async def restrict(connection: asyncpg.Connection, role: str) -> None:
    """Make what is missing, and that only: a new policy holds up all who use its table for a moment."""
    has = {row["table"] for row in await connection.fetch(_OF_ROLE, role)}
    policy = await connection.fetchval("SELECT quote_ident('one_store_for_' || $1)", role)
    to = await connection.fetchval("SELECT quote_ident($1)", role)
    for table, seen in RESTRICTED.items():
        if table not in has:
            await connection.execute(f"CREATE POLICY {policy} ON {table} AS RESTRICTIVE TO {to} USING ({seen})")


async def lift(connection: asyncpg.Connection, role: str) -> None:
    for row in await connection.fetch(_OF_ROLE, role):
        await connection.execute(f"DROP POLICY {row['policy']} ON {row['table']}")
