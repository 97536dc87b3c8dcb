"""`stores`: what stores weigh in the fair order, and which of them are one account."""

import argparse
from argparse import Namespace
from math import nan
from pathlib import Path

import asyncpg
import orjson

from admin.context import Subcommands, CommandContext, add_command, add_command_group, print_message
from shared.domain.api_keys import STORE_NAME
from shared.domain.errors import Unavailable
from shared.runtime.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "stores.sql")


def add_commands(commands: Subcommands, name: str) -> None:
    """Add these commands to a parser's."""
    own = add_command_group(commands, name, "Weights and accounts of stores in the fair order.")
    change = add_command(
        own,
        "set",
        _set,
        "Set a store's account and weights. A running scheduler takes them over within seconds.",
    )
    change.add_argument("store", metavar="STORE", help="the store's name")
    change.add_argument("--account", help="the account that it belongs to; '' for none")
    change.add_argument(
        "--weight", type=_weight, help="its part among its account's, 0.001 to 1000"
    )
    change.add_argument("--account-weight", type=_weight, help="its account's part, 0.001 to 1000")
    add_command(own, "list", _list, "Every store that was ever charged or set.", as_json=True)


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = nan
    if not 0.001 <= weight <= 1000:
        raise argparse.ArgumentTypeError(f"must be a number from 0.001 to 1000, and is {text!r}")
    return weight


def _set(chosen: Namespace, place: CommandContext) -> int:
    for name in (chosen.store, chosen.account or chosen.store):
        if not STORE_NAME.fullmatch(name):
            raise Unavailable(
                f"{name!r} is no name: 1 to 100 letters, digits, dots, hyphens or underscores"
            )
    row = place.run_with_database(lambda connection: _change(connection, chosen))
    print_message(f"{chosen.store}: account {row['account_id'] or 'none'}, weight {row['weight']:g}")
    return 0


async def _change(connection: asyncpg.Connection, chosen: Namespace) -> asyncpg.Record:
    store, account = chosen.store, chosen.account
    async with connection.transaction():
        before = await connection.fetchval(_QUERIES["old_weight"], store)
        row = await connection.fetchrow(
            _QUERIES["set_store"], store, account or None, chosen.weight, account is not None
        )
        assert row is not None
        if (
            before is not None and row["account_id"] is None
        ):  # then the store is an account by itself
            await connection.execute(_QUERIES["scale_own_account"], store, row["weight"] / before)
        if chosen.account_weight is not None:
            if row["account_id"] is None:
                raise Unavailable(
                    f"{store} belongs to no account: its own --weight is its account's"
                )
            await connection.execute(
                _QUERIES["set_account"], row["account_id"], chosen.account_weight
            )
    return row


def _list(chosen: Namespace, place: CommandContext) -> int:
    rows = [
        dict(row)
        for row in place.run_with_database(lambda connection: connection.fetch(_QUERIES["list"]))
    ]
    if chosen.as_json:
        print(orjson.dumps(rows).decode())
        return 0
    for row in rows:
        account = f"{row['account']} ({row['account_weight'] or 1:g})" if row["account"] else "–"
        print(
            f"{row['store']:<24}  weight {row['weight']:g}  account {account:<24}  served ${row['served_usd']:.4f}"
            f"  mean ${row['mean_cost_usd']:.4f}  {row['settled_jobs']} jobs"
        )
    return 0
