"""`dead-letters`: records that no service could handle, looked at, sent again or discarded."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from aiokafka.structs import ConsumerRecord

from admin.context import Subcommands, CommandContext, add_command, add_command_group, print_message
from admin.dead_letters import actions
from admin.dead_letters.reader import open_dead_letters
from admin.dead_letters.rules import DeadLetterIndex, DeadLetter, DeadLetterError
from admin.dead_letters.view import format_line, letter_summary, escape_unprintable, format_letter, letter_details
from shared.runtime.settings import KafkaSettings

_ID = "the letter's id, as `list` shows it"


def add_commands(commands: Subcommands, name: str) -> None:
    """Add these commands to a parser's."""
    own = add_command_group(commands, name, "Records that no service could handle, each with the reason.")
    add_command(
        own, "list", _refusable(_list), "Every letter that is still open, one a line.", as_json=True
    )
    told = "A letter in full, open or handled: its headers, and its value as text."
    add_command(own, "show", _refusable(_show), told, as_json=True).add_argument(
        "letter", metavar="ID", help=_ID
    )
    told = "Send letters to the topics that they came from, as they came, and mark them as handled."
    _some(add_command(own, "replay", _refusable(_replay), told))
    discard = add_command(
        own, "discard", _refusable(_discard), "Mark letters as handled without sending them again."
    )
    _some(discard)
    discard.add_argument("--yes", action="store_true", help="with --all: do not ask")


def _some(parser: ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help=_ID)
    parser.add_argument(
        "--all", dest="every", action="store_true", help="every letter that is open"
    )


def _refusable(run: Callable[[Namespace, CommandContext], None]) -> Callable[[Namespace, CommandContext], int]:
    """What is refused is told, and ends with 1."""

    def refused_or_done(chosen: Namespace, place: CommandContext) -> int:
        try:
            run(chosen, place)
        except DeadLetterError as refused:
            for told in refused.lines:
                print_message(escape_unprintable(told))
            return 1
        return 0

    return refused_or_done


def _list(chosen: Namespace, place: CommandContext) -> None:
    letters = list(place.run_with_kafka(_read).open.values())
    if chosen.as_json:
        print(json.dumps([letter_summary(letter) for letter in letters]))
        return
    for letter in letters:
        print(format_line(letter))
    _none_open(len(letters))


def _show(chosen: Namespace, place: CommandContext) -> None:
    ledger, record = place.run_with_kafka(lambda settings: _fetch(settings, chosen.letter))
    told = DeadLetter.of(record), record.value, ledger.handled.get(chosen.letter)
    print(json.dumps(letter_details(*told)) if chosen.as_json else format_letter(*told))


def _replay(chosen: Namespace, place: CommandContext) -> None:
    _one_of(chosen)
    _none_open(place.run_with_kafka(lambda settings: actions.replay_letters(settings, chosen.ids or None, print_message)))


def _discard(chosen: Namespace, place: CommandContext) -> None:
    _one_of(chosen)
    ids = _confirmed(chosen, place) if chosen.every and not chosen.yes else chosen.ids or None
    _none_open(place.run_with_kafka(lambda settings: actions.discard_letters(settings, ids, print_message)))


def _one_of(chosen: Namespace) -> None:
    if bool(chosen.ids) == chosen.every:
        chosen.parser.error("name some IDs, or say --all")


def _confirmed(chosen: Namespace, place: CommandContext) -> list[str]:
    """Those letters that the answer was about, and none that comes while it is thought over."""
    if not sys.stdin.isatty():
        chosen.parser.error("--all: nobody is here to be asked: add --yes")
    ids = list(place.run_with_kafka(_read).open)
    if ids:
        print_message(f"discard {len(ids)} dead letters? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise DeadLetterError(["nothing was discarded"])
    return ids


def _none_open(count: int) -> None:
    if not count:
        print_message("no dead letter is open")


async def _read(settings: KafkaSettings) -> DeadLetterIndex:
    async with open_dead_letters(settings) as shelf:
        return await shelf.read()


async def _fetch(settings: KafkaSettings, letter: str) -> tuple[DeadLetterIndex, ConsumerRecord]:
    async with open_dead_letters(settings) as shelf:
        ledger = await shelf.read()
        if letter not in ledger.handled:
            ledger.choose([letter])
        partition, _, offset = letter.partition("-")
        return ledger, await shelf.fetch(int(partition), int(offset))
