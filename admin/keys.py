"""`keys`: creates, lists and revokes API keys, and shows or rotates webhook secrets."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import asyncpg
import orjson

from admin.context import (
    CommandContext,
    Subcommands,
    add_command,
    add_command_group,
    print_message,
)
from shared.domain.api_keys import (
    create_key,
    create_operator_key,
    get_or_create_webhook_secret,
    list_keys,
    revoke_key,
    rotate_webhook_secret,
)
from shared.domain.errors import Unavailable
from shared.runtime.postgres import load_queries

_OVERLAP_S = 86_400
_QUERIES = load_queries(Path(__file__).parent / "sql" / "stores.sql")


def add_commands(commands: Subcommands, name: str) -> None:
    """Add these commands to a parser."""
    own = add_command_group(
        commands, name, "API keys: each belongs to one store, or to an operator."
    )
    text = "Make a key. It is printed once, alone on the last line."
    create = add_command(own, "create", _create, text)
    create.add_argument("store", nargs="?", metavar="STORE", help="the store's name")
    create.add_argument(
        "--operator",
        metavar="NAME",
        help="instead: the name of an operator, who may see, cancel and retry every job",
    )
    add_command(own, "list", _list, "All keys, without the keys themselves.", as_json=True)
    text = "Revoke a key: within two seconds it opens nothing any more."
    revoke = add_command(own, "revoke", _revoke, text)
    revoke.add_argument("key", metavar="ID", help="the key's id, as `list` shows it")
    text = (
        "The secret that signs a store's webhooks, alone on the last line; made when there is none."
    )
    secret = add_command(own, "webhook-secret", _webhook_secret, text)
    secret.add_argument("store", metavar="STORE", help="the store's name")
    secret.add_argument(
        "--rotate", action="store_true", help="make a new one; for a day, both sign"
    )


def _create(arguments: Namespace, context: CommandContext) -> int:
    store, operator = arguments.store, arguments.operator
    if (store is None) == (operator is None):
        arguments.parser.error("give either a store's name or --operator NAME")
    create, name = (create_key, store) if operator is None else (create_operator_key, operator)
    try:
        key = context.run_with_database(lambda connection: create(connection, name))
    except ValueError as error:
        raise Unavailable(str(error)) from None
    owner = "store" if operator is None else "operator"
    print_message(f"key for the {owner} {name}; keep it, it is not shown again:")
    print(key)
    return 0


def _list(arguments: Namespace, context: CommandContext) -> int:
    keys = context.run_with_database(list_keys)
    if arguments.as_json:
        print(orjson.dumps([asdict(key) for key in keys]).decode())
        return 0
    for key in keys:
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "valid"
        owner = f"operator {key.name}" if key.scope == "operator" else key.store
        print(f"{key.id}  {owner:<24}  …{key.hint}  {key.created_at:%Y-%m-%d %H:%M}  {state}")
    return 0


def _revoke(arguments: Namespace, context: CommandContext) -> int:
    key = arguments.key
    revoked = context.run_with_database(lambda connection: revoke_key(connection, key))
    print_message(f"revoked {key}" if revoked else f"no valid key has the id {key}")
    return 0 if revoked else 1


def _webhook_secret(arguments: Namespace, context: CommandContext) -> int:
    store = arguments.store
    secret = context.run_with_database(
        lambda connection: _find_secret(connection, store, rotate=arguments.rotate)
    )
    if secret is None:
        print_message(f"no store has the name {store!r}: it has neither a key nor a job")
        return 1
    print_message(f"what signs the webhooks of the store {store}:")
    print(secret)
    return 0


async def _find_secret(connection: asyncpg.Connection, store: str, *, rotate: bool) -> str | None:
    """The store's secret. `None` for an unknown store: a new secret would hide a misspelt name."""
    if not await connection.fetchval(_QUERIES["exists"], store):
        return None
    if rotate:
        return await rotate_webhook_secret(connection, store, overlap_s=_OVERLAP_S)
    return await get_or_create_webhook_secret(connection, store)
