"""`keys`: API keys and webhook secrets of the database of DATABASE_URL."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import asyncpg
import orjson

from admin.context import Subcommands, CommandContext, add_command, add_command_group, print_message
from shared.domain.api_keys import (
    create_key,
    create_operator_key,
    list_keys,
    revoke_key,
    rotate_webhook_secret,
    get_or_create_webhook_secret,
)
from shared.domain.errors import Unavailable
from shared.runtime.postgres import load_queries

_OVERLAP_S = 86_400
_QUERIES = load_queries(Path(__file__).parent / "sql" / "stores.sql")


def add_commands(commands: Subcommands, name: str) -> None:
    """Add these commands to a parser's."""
    own = add_command_group(commands, name, "API keys: each belongs to one store, or to an operator.")
    create = add_command(own, "create", _create, "Make a key. It is printed once, alone on the last line.")
    create.add_argument("store", nargs="?", metavar="STORE", help="the store's name")
    create.add_argument(
        "--operator",
        metavar="NAME",
        help="instead: the name of an operator, who may see, cancel and retry every job",
    )
    add_command(own, "list", _list, "All keys, without the keys themselves.", as_json=True)
    revoke = add_command(
        own, "revoke", _revoke, "Revoke a key: within two seconds it opens nothing any more."
    )
    revoke.add_argument("key", metavar="ID", help="the key's id, as `list` shows it")
    secret = add_command(
        own,
        "webhook-secret",
        _webhook_secret,
        "The secret that signs a store's webhooks, alone on the last line; made when there is none.",
    )
    secret.add_argument("store", metavar="STORE", help="the store's name")
    secret.add_argument(
        "--rotate", action="store_true", help="make a new one; for a day, both sign"
    )


def _create(chosen: Namespace, place: CommandContext) -> int:
    store, operator = chosen.store, chosen.operator
    if (store is None) == (operator is None):
        chosen.parser.error("give either a store's name or --operator NAME")
    make, name = (create_key, store) if operator is None else (create_operator_key, operator)
    try:
        key = place.run_with_database(lambda connection: make(connection, name))
    except ValueError as error:
        raise Unavailable(str(error)) from None
    print_message(
        f"key for the {'store' if operator is None else 'operator'} {name}; keep it, it is not shown again:"
    )
    print(key)
    return 0


def _list(chosen: Namespace, place: CommandContext) -> int:
    keys = place.run_with_database(list_keys)
    if chosen.as_json:
        print(orjson.dumps([asdict(key) for key in keys]).decode())
        return 0
    for key in keys:
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "valid"
        owner = f"operator {key.name}" if key.scope == "operator" else key.store
        print(f"{key.id}  {owner:<24}  …{key.hint}  {key.created_at:%Y-%m-%d %H:%M}  {state}")
    return 0


def _revoke(chosen: Namespace, place: CommandContext) -> int:
    done = place.run_with_database(lambda connection: revoke_key(connection, chosen.key))
    print_message(f"revoked {chosen.key}" if done else f"no valid key has the id {chosen.key}")
    return 0 if done else 1


def _webhook_secret(chosen: Namespace, place: CommandContext) -> int:
    found = place.run_with_database(
        lambda connection: _secret_of(connection, chosen.store, rotate=chosen.rotate)
    )
    if found is None:
        print_message(f"no store has the name {chosen.store!r}: it has neither a key nor a job")
        return 1
    print_message(f"what signs the webhooks of the store {chosen.store}:")
    print(found)
    return 0


async def _secret_of(connection: asyncpg.Connection, store: str, *, rotate: bool) -> str | None:
    """None for a store that never was: a secret that nobody has asked for would only hide that a name is misspelt."""
    if not await connection.fetchval(_QUERIES["exists"], store):
        return None
    if rotate:
        return await rotate_webhook_secret(connection, store, overlap_s=_OVERLAP_S)
    return await get_or_create_webhook_secret(connection, store)
