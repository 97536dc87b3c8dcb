"""`dead-letters`: lists, shows, replays and discards records that no service could process."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from aiokafka.structs import ConsumerRecord

from admin.context import (
    CommandContext,
    Subcommands,
    add_command,
    add_command_group,
    print_message,
)
from admin.dead_letters import actions
from admin.dead_letters.reader import open_dead_letters
from admin.dead_letters.rules import DeadLetter, DeadLetterError, DeadLetterIndex
from admin.dead_letters.view import (
    escape_unprintable,
    format_letter,
    format_line,
    letter_details,
    letter_summary,
)
from shared.runtime.settings import KafkaSettings

_ID_HELP = "the letter's id, as `list` shows it"


def add_commands(commands: Subcommands, name: str) -> None:
    """Add these commands to a parser."""
    own = add_command_group(
        commands, name, "Records that no service could handle, each with the reason."
    )
    text = "Every letter that is still open, one a line."
    add_command(own, "list", _report_errors(_list), text, as_json=True)
    text = "A letter in full, open or handled: its headers, and its value as text."
    show = add_command(own, "show", _report_errors(_show), text, as_json=True)
    show.add_argument("letter", metavar="ID", help=_ID_HELP)
    text = "Send letters to the topics that they came from, as they came, and mark them as handled."
    _add_selection(add_command(own, "replay", _report_errors(_replay), text))
    text = "Mark letters as handled without sending them again."
    discard = add_command(own, "discard", _report_errors(_discard), text)
    _add_selection(discard)
    discard.add_argument("--yes", action="store_true", help="with --all: do not ask")


def _add_selection(parser: ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help=_ID_HELP)
    parser.add_argument(
        "--all", dest="every", action="store_true", help="every letter that is open"
    )


def _report_errors(
    command: Callable[[Namespace, CommandContext], None],
) -> Callable[[Namespace, CommandContext], int]:
    """A command that prints a `DeadLetterError` line by line and then returns exit code 1."""

    def run_and_report(arguments: Namespace, context: CommandContext) -> int:
        try:
            command(arguments, context)
        except DeadLetterError as error:
            for line in error.lines:
                print_message(escape_unprintable(line))
            return 1
        return 0

    return run_and_report


def _list(arguments: Namespace, context: CommandContext) -> None:
    letters = list(context.run_with_kafka(_read_index).open.values())
    if arguments.as_json:
        print(json.dumps([letter_summary(letter) for letter in letters]))
        return
    for letter in letters:
        print(format_line(letter))
    _report_count(len(letters))


def _show(arguments: Namespace, context: CommandContext) -> None:
    index, record = context.run_with_kafka(
        lambda settings: _fetch_letter(settings, arguments.letter)
    )
    shown = DeadLetter.from_record(record), record.value, index.handled.get(arguments.letter)
    print(json.dumps(letter_details(*shown)) if arguments.as_json else format_letter(*shown))


def _replay(arguments: Namespace, context: CommandContext) -> None:
    _check_selection(arguments)
    ids = arguments.ids or None
    _report_count(
        context.run_with_kafka(
            lambda settings: actions.replay_letters(settings, ids, print_message)
        )
    )


def _discard(arguments: Namespace, context: CommandContext) -> None:
    _check_selection(arguments)
    must_ask = arguments.every and not arguments.yes
    ids = _confirm_all(arguments, context) if must_ask else arguments.ids or None
    _report_count(
        context.run_with_kafka(
            lambda settings: actions.discard_letters(settings, ids, print_message)
        )
    )


def _check_selection(arguments: Namespace) -> None:
    if bool(arguments.ids) == arguments.every:
        arguments.parser.error("name some IDs, or say --all")


def _confirm_all(arguments: Namespace, context: CommandContext) -> list[str]:
    """Ask at the terminal. Return the letters of the question, without those that arrived since."""
    if not sys.stdin.isatty():
        arguments.parser.error("--all needs a terminal or --yes")
    ids = list(context.run_with_kafka(_read_index).open)
    if ids:
        print_message(f"discard {len(ids)} dead letters? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise DeadLetterError(["nothing was discarded"])
    return ids


def _report_count(count: int) -> None:
    if not count:
        print_message("no dead letter is open")


async def _read_index(settings: KafkaSettings) -> DeadLetterIndex:
    async with open_dead_letters(settings) as reader:
        return await reader.read_index()


async def _fetch_letter(
    settings: KafkaSettings, letter: str
) -> tuple[DeadLetterIndex, ConsumerRecord]:
    async with open_dead_letters(settings) as reader:
        index = await reader.read_index()
        if letter not in index.handled:
            index.select_open([letter])
        partition, _, offset = letter.partition("-")
        return index, await reader.fetch_record(int(partition), int(offset))
