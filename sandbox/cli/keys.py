"""`./blogstream keys`: API keys of the database of DATABASE_URL, or of this home's running system."""

from dataclasses import asdict
from typing import Annotated

import orjson
import typer

from sandbox.cli.common import say, with_database
from shared.errors import Unavailable
from shared.keys import (
    ApiKey,
    create_key,
    create_operator_key,
    list_keys,
    revoke_key,
    rotate_webhook_secret,
    webhook_secret,
)

application = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="API keys: each belongs to one store, or to an operator.",
)


@application.command()
def create(
    store: Annotated[str | None, typer.Argument(help="the store's name")] = None,
    operator: Annotated[
        str | None, typer.Option(help="instead: the name of an operator, who may see, cancel and retry every job")
    ] = None,
) -> None:
    """Make a key. It is printed once, alone on the last line, and cannot be shown again."""
    if (store is None) == (operator is None):
        raise typer.BadParameter("give either a store's name or --operator NAME")
    try:
        if operator is not None:
            key = with_database(lambda connection: create_operator_key(connection, operator))
        else:
            key = with_database(lambda connection: create_key(connection, str(store)))
    except ValueError as error:
        raise Unavailable(str(error)) from None
    say(f"key for the {f'operator {operator}' if operator else f'store {store}'}; keep it, it is not shown again:")
    print(key)


@application.command("list")
def list_all(as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False) -> None:
    """All keys, without the keys themselves."""
    keys: list[ApiKey] = with_database(list_keys)
    if as_json:
        print(orjson.dumps([asdict(key) for key in keys]).decode())
        return
    for key in keys:
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else "valid"
        owner = f"operator {key.name}" if key.scope == "operator" else key.store
        print(f"{key.id}  {owner:<24}  …{key.hint}  {key.created_at:%Y-%m-%d %H:%M}  {state}")


@application.command()
def revoke(key: Annotated[str, typer.Argument(help="the key's id, as `list` shows it")]) -> None:
    """Revoke a key: within two seconds it opens nothing any more."""
    if with_database(lambda connection: revoke_key(connection, key)):
        say(f"revoked {key}")
        return
    say(f"no valid key has the id {key}")
    raise typer.Exit(1)


@application.command("webhook-secret")
def secret(
    store: Annotated[str, typer.Argument(help="the store's name")],
    rotate: Annotated[bool, typer.Option("--rotate", help="make a new one; for a day, both sign")] = False,
) -> None:
    """The secret that signs a store's webhooks, alone on the last line; made when there is none."""
    try:
        found = with_database(
            lambda connection: (
                rotate_webhook_secret(connection, store, overlap_s=86_400)
                if rotate
                else webhook_secret(connection, store)
            )
        )
    except ValueError as error:
        raise Unavailable(str(error)) from None
    say(f"what signs the webhooks of the store {store}:")
    print(found)
