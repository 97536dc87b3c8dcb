"""`stores`: sets and lists the weights and accounts of stores, and copies a store to a cell."""

import argparse
from argparse import Namespace
from math import nan
from pathlib import Path

import asyncpg
import orjson

from admin import store_copy
from admin.context import (
    CommandContext,
    Subcommands,
    add_command,
    add_command_group,
    print_message,
)
from shared.domain.api_keys import STORE_NAME
from shared.domain.errors import Unavailable
from shared.runtime.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "stores.sql")


def add_commands(commands: Subcommands, name: str) -> None:
    """Add these commands to a parser."""
    own = add_command_group(commands, name, "Weights and accounts of stores in the fair queue.")
    text = "Set a store's account and weights. A running scheduler takes them over within seconds."
    change = add_command(own, "set", _set, text)
    change.add_argument("store", metavar="STORE", help="the store's name")
    change.add_argument("--account", help="the account that it belongs to; '' for none")
    change.add_argument(
        "--weight", type=_parse_weight, help="its part among its account's, 0.001 to 1000"
    )
    change.add_argument(
        "--account-weight", type=_parse_weight, help="its account's part, 0.001 to 1000"
    )
    add_command(own, "list", _list, "Every store that was ever charged or set.", as_json=True)
    store_copy.add_copy_command(own)


def _parse_weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = nan
    if not 0.001 <= weight <= 1000:
        raise argparse.ArgumentTypeError(f"must be a number from 0.001 to 1000, and is {text!r}")
    return weight


def _set(arguments: Namespace, context: CommandContext) -> int:
    for name in (arguments.store, arguments.account or arguments.store):
        if not STORE_NAME.fullmatch(name):
            raise Unavailable(
                f"{name!r} is no name: 1 to 100 letters, digits, dots, hyphens or underscores"
            )
    row = context.run_with_database(lambda connection: _update_store(connection, arguments))
    account = row["account_id"] or "none"
    print_message(f"{arguments.store}: account {account}, weight {row['weight']:g}")
    return 0


async def _update_store(connection: asyncpg.Connection, arguments: Namespace) -> asyncpg.Record:
    store, account = arguments.store, arguments.account
    async with connection.transaction():
        old_weight = await connection.fetchval(_QUERIES["old_weight"], store)
        row = await connection.fetchrow(
            _QUERIES["set_store"], store, account or None, arguments.weight, account is not None
        )
        assert row is not None
        is_own_account = row["account_id"] is None
        if old_weight is not None and is_own_account:
            scale = row["weight"] / old_weight
            await connection.execute(_QUERIES["scale_own_account"], store, scale)
        if arguments.account_weight is not None:
            if is_own_account:
                raise Unavailable(
                    f"{store} belongs to no account: its own --weight is its account's"
                )
            await connection.execute(
                _QUERIES["set_account"], row["account_id"], arguments.account_weight
            )
    return row


def _list(arguments: Namespace, context: CommandContext) -> int:
    rows = [
        dict(row)
        for row in context.run_with_database(lambda connection: connection.fetch(_QUERIES["list"]))
    ]
    if arguments.as_json:
        print(orjson.dumps(rows).decode())
        return 0
    for row in rows:
        account = f"{row['account']} ({row['account_weight'] or 1:g})" if row["account"] else "–"
        print(
            f"{row['store']:<24}  weight {row['weight']:g}  account {account:<24}"
            f"  served ${row['served_usd']:.4f}  mean ${row['mean_cost_usd']:.4f}"
            f"  {row['settled_jobs']} jobs"
        )
    return 0
