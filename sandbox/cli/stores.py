"""`./blogstream stores`: what stores weigh in the fair order, and which of them are one account."""

from typing import Annotated, Any

import asyncpg
import orjson
import typer

from sandbox.cli.common import say, with_database
from shared.errors import Unavailable
from shared.keys import STORE_NAME

application = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Weights and accounts of stores in the fair order.",
)

# A new weight moves nobody in the line: counters stand there divided by the weight, so they are scaled with it.
_SET_STORE = """
INSERT INTO stores (instance_id, account_id, weight, configured_at)
VALUES ($1, $2, coalesce($3::float8, 1), clock_timestamp())
ON CONFLICT (instance_id) DO UPDATE
   SET account_id = CASE WHEN $4 THEN $2 ELSE stores.account_id END, weight = coalesce($3::float8, stores.weight),
       served_nanousd = stores.served_nanousd * (coalesce($3::float8, stores.weight) / stores.weight),
       configured_at = clock_timestamp()
RETURNING account_id, weight
"""
_OLD_WEIGHT = "SELECT weight FROM stores WHERE instance_id = $1 FOR UPDATE"
_SCALE_OWN_ACCOUNT = "UPDATE accounts SET served_nanousd = served_nanousd * $2::float8 WHERE account_id = $1"
_SET_ACCOUNT = """
INSERT INTO accounts (account_id, weight) VALUES ($1, $2)
ON CONFLICT (account_id) DO UPDATE
   SET weight = $2, served_nanousd = accounts.served_nanousd * ($2 / accounts.weight)
"""
_LIST = """
SELECT store.instance_id AS store, store.account_id AS account, store.weight, account.weight AS account_weight,
       store.served_nanousd / 1e9 AS served_usd, store.mean_cost_nanousd / 1e9 AS mean_cost_usd, store.settled_jobs
  FROM stores AS store LEFT JOIN accounts AS account USING (account_id) ORDER BY store.instance_id
"""


@application.command("set")
def set_one(
    store: Annotated[str, typer.Argument(help="the store's name")],
    account: Annotated[str | None, typer.Option(help="the account that it belongs to; '' for none")] = None,
    weight: Annotated[float | None, typer.Option(min=0.001, max=1000, help="its part among its account's")] = None,
    account_weight: Annotated[float | None, typer.Option(min=0.001, max=1000, help="its account's part")] = None,
) -> None:
    """Set a store's account and weights. A running scheduler takes them over within seconds."""
    for name in (store, account or store):
        if not STORE_NAME.fullmatch(name):
            raise Unavailable(f"{name!r} is no name: 1 to 100 letters, digits, dots, hyphens or underscores")

    async def change(connection: asyncpg.Connection) -> Any:
        async with connection.transaction():
            before = await connection.fetchval(_OLD_WEIGHT, store)
            row = await connection.fetchrow(_SET_STORE, store, account or None, weight, account is not None)
            assert row is not None
            if before is not None and row["account_id"] is None:  # then the store is an account by itself
                await connection.execute(_SCALE_OWN_ACCOUNT, store, row["weight"] / before)
            if account_weight is not None:
                if row["account_id"] is None:
                    raise Unavailable(f"{store} belongs to no account: its own --weight is its account's")
                await connection.execute(_SET_ACCOUNT, row["account_id"], account_weight)
        return row

    row = with_database(change)
    say(f"{store}: account {row['account_id'] or 'none'}, weight {row['weight']:g}")


@application.command("list")
def list_all(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """Every store that was ever charged or set."""
    rows = [dict(row) for row in with_database(lambda connection: connection.fetch(_LIST))]
    if as_json:
        print(orjson.dumps(rows).decode())
        return
    for row in rows:
        account = f"{row['account']} ({row['account_weight'] or 1:g})" if row["account"] else "–"
        print(
            f"{row['store']:<24}  weight {row['weight']:g}  account {account:<24}  served ${row['served_usd']:.4f}"
            f"  mean ${row['mean_cost_usd']:.4f}  {row['settled_jobs']} jobs"
        )
