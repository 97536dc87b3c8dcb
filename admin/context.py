"""Where a command acts: the database and the broker that variables name. It waits for neither as a service would."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import asyncpg
from aiokafka.errors import KafkaError

from shared.domain.errors import Unavailable
from shared.kafka.access import check_reachable, explain_refusal
from shared.runtime.postgres import connect
from shared.runtime.settings import KafkaSettings

T = TypeVar("T")
Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_WITHIN_S = 10


def print_message(line: str) -> None:
    """One line to the person; to stderr, so that stdout stays for results."""
    print(line, file=sys.stderr, flush=True)


def read_variable(name: str) -> str:
    """A variable of the environment, which must be set."""
    if value := os.environ.get(name):
        return value
    raise Unavailable(f"{name} is not set")


def add_command(
    commands: Subcommands,
    name: str,
    run: Callable[[Any, "CommandContext"], int],
    help: str,
    *,
    as_json: bool = False,
) -> argparse.ArgumentParser:
    """A command that `run` carries out: it gets the arguments, with their `parser` to complain by, and the place."""
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(run=run, parser=parser)
    if as_json:
        parser.add_argument("--json", dest="as_json", action="store_true", help="as JSON")
    return parser


def add_command_group(commands: Subcommands, name: str, help: str) -> Subcommands:
    """A command that only has others."""
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    return parser.add_subparsers(dest=f"{name} command", metavar="COMMAND", required=True)


class CommandContext:
    """`variable` finds a variable's value, or raises `Unavailable`."""

    def __init__(self, variable: Callable[[str], str]) -> None:
        self._variable = variable

    def run_with_database(self, call: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """The outcome of a call with a connection to the database of DATABASE_URL."""

        async def connected() -> T:
            connection = await connect(self._variable("DATABASE_URL"), deadline_s=_WITHIN_S)
            try:
                return await call(connection)
            except asyncpg.UndefinedTableError as error:
                raise Unavailable(
                    f"the database lacks a table ({error}): run `python -m migrations up`"
                ) from None
            except asyncpg.InsufficientPrivilegeError as error:
                raise Unavailable(
                    f"DATABASE_URL must be that of the tables' owner: {error}"
                ) from None
            finally:
                await connection.close()

        return asyncio.run(connected())

    def run_with_kafka(self, call: Callable[[KafkaSettings], Awaitable[T]]) -> T:
        """The outcome of a call on the broker of KAFKA_BOOTSTRAP_SERVERS."""
        # What its client mutters while a group forms is no line of ours; what goes wrong for good is raised.
        logging.getLogger("aiokafka").addHandler(logging.NullHandler())
        os.environ["KAFKA_BOOTSTRAP_SERVERS"] = self._variable("KAFKA_BOOTSTRAP_SERVERS")
        settings = KafkaSettings.from_environment()

        async def answered() -> T:
            try:
                await check_reachable(settings)
                return await call(settings)
            except (KafkaError, OSError) as error:
                raise Unavailable(
                    explain_refusal(settings, error) or _silent(settings, error)
                ) from None

        return asyncio.run(answered())


def _silent(settings: KafkaSettings, error: Exception) -> str:
    why = str(error) or type(error).__name__
    silent = f"Kafka at {settings.kafka_bootstrap_servers} does not answer ({why})"
    return f"{silent}; start it, or check KAFKA_BOOTSTRAP_SERVERS"
