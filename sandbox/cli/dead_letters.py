"""`./blogstream dead-letters`: records that no service could handle, looked at, sent again or discarded."""

import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

import typer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from sandbox.cli.common import say, variable, wait_for
from sandbox.dead_letters import handling
from sandbox.dead_letters.letter import Ledger, Letter, Refused
from sandbox.dead_letters.shelf import open_shelf
from sandbox.dead_letters.view import line, listed, printable, shown, shown_as_json
from shared.errors import Unavailable
from shared.kafka_access import reachable, refusal
from shared.settings import KafkaSettings

T = TypeVar("T")
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="the letters' ids, as `list` shows them")]
All = Annotated[bool, typer.Option("--all", help="every letter that is open")]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON")]

application = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Records that no service could handle, each with the reason.",
)


@application.command("list")
def list_open(as_json: AsJson = False) -> None:
    """Every letter that is still open, one a line."""
    letters = list(_on_kafka(_read).open.values())
    if as_json:
        print(json.dumps([listed(letter) for letter in letters]))
        return
    for letter in letters:
        print(line(letter))
    _none_open(len(letters))


@application.command()
def show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="the letter's id, as `list` shows it")],
    as_json: AsJson = False,
) -> None:
    """A letter in full, open or handled: its headers, and its value as text."""
    ledger, record = _on_kafka(lambda settings: _fetch(settings, letter))
    told = Letter.of(record), record.value, ledger.handled.get(letter)
    print(json.dumps(shown_as_json(*told)) if as_json else shown(*told))


@application.command()
def replay(ids: Ids = None, every: All = False) -> None:
    """Send letters to the topics that they came from, as they came, and mark them as handled."""
    _one_of(ids, every)
    _none_open(_on_kafka(lambda settings: handling.replay(settings, ids or None, say)))


@application.command()
def discard(
    ids: Ids = None,
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="with --all: do not ask")] = False,
) -> None:
    """Mark letters as handled without sending them again."""
    _one_of(ids, every)
    chosen = _confirmed() if every and not yes else ids or None
    _none_open(_on_kafka(lambda settings: handling.discard(settings, chosen, say)))


def _one_of(ids: Sequence[str] | None, every: bool) -> None:
    if bool(ids) == every:
        raise typer.BadParameter("name some, or say --all", param_hint="ID")


def _confirmed() -> list[str]:
    """Those letters that the answer was about, and none that comes while it is thought over."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is here to be asked: add --yes", param_hint="--all")
    ids = list(_on_kafka(_read).open)
    if ids:
        typer.confirm(f"discard {len(ids)} dead letters?", abort=True, err=True)
    return ids


def _none_open(count: int) -> None:
    if not count:
        say("no dead letter is open")


async def _read(settings: KafkaSettings) -> Ledger:
    async with open_shelf(settings) as shelf:
        return await shelf.read()


async def _fetch(settings: KafkaSettings, letter: str) -> tuple[Ledger, ConsumerRecord]:
    async with open_shelf(settings) as shelf:
        ledger = await shelf.read()
        if letter not in ledger.handled:
            ledger.choose([letter])
        partition, _, offset = letter.partition("-")
        return ledger, await shelf.fetch(int(partition), int(offset))


def _on_kafka(call: Callable[[KafkaSettings], Awaitable[T]]) -> T:
    """The outcome of a call on this home's Kafka, or on the environment's; what is refused is told and ends with 1."""
    # What its client mutters while a group forms is no line of ours; what goes wrong for good is raised.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    os.environ["KAFKA_BOOTSTRAP_SERVERS"] = variable("KAFKA_BOOTSTRAP_SERVERS")
    settings = KafkaSettings.from_environment()

    async def answered() -> T:
        try:
            await reachable(settings)  # nobody waits at a terminal as a service would
            return await call(settings)
        except (KafkaError, OSError) as error:
            silent = (
                f"Kafka at {settings.kafka_bootstrap_servers} does not answer ({str(error) or type(error).__name__});"
            )
            why = refusal(settings, error) or f"{silent} start it, or check KAFKA_BOOTSTRAP_SERVERS"
            raise Unavailable(why) from None

    try:
        return wait_for(answered())
    except Refused as refused:
        for told in refused.lines:
            say(printable(told))
        raise typer.Exit(1) from None
