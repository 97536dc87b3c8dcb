"""Gives a command its database connection and its Kafka settings.

Unlike a service, a command waits only briefly for either.
"""

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
_CONNECT_TIMEOUT_S = 10


def print_message(line: str) -> None:
    """Print one line for the person, to stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def read_variable(name: str) -> str:
    """The value of an environment variable. `Unavailable` when it is not set."""
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
    """Add a command that `run` carries out, and return its parser.

    `run` gets the parsed arguments, with their `parser` to report wrong usage, and the context.
    """
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    parser.set_defaults(run=run, parser=parser)
    if as_json:
        parser.add_argument("--json", dest="as_json", action="store_true", help="as JSON")
    return parser


def add_command_group(commands: Subcommands, name: str, help: str) -> Subcommands:
    """Add a command that only has subcommands."""
    parser = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
    return parser.add_subparsers(dest=f"{name} command", metavar="COMMAND", required=True)


class CommandContext:
    """Runs async calls of a command against the database or the broker of its environment.

    `variable` returns the value of an environment variable, or raises `Unavailable`.
    """

    def __init__(self, variable: Callable[[str], str]) -> None:
        self.variable = variable

    def run_with_database(self, call: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Run a call with a connection to the database of DATABASE_URL, and return its result."""

        async def run() -> T:
            dsn = self.variable("DATABASE_URL")
            connection = await connect(dsn, deadline_s=_CONNECT_TIMEOUT_S)
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

        return asyncio.run(run())

    def run_with_kafka(self, call: Callable[[KafkaSettings], Awaitable[T]]) -> T:
        """Run a call with the settings of KAFKA_BOOTSTRAP_SERVERS, and return its result."""
        # Hides the client's messages while a group forms. Lasting errors are raised.
        logging.getLogger("aiokafka").addHandler(logging.NullHandler())
        os.environ["KAFKA_BOOTSTRAP_SERVERS"] = self.variable("KAFKA_BOOTSTRAP_SERVERS")
        settings = KafkaSettings.from_environment()

        async def run() -> T:
            try:
                await check_reachable(settings)
                return await call(settings)
            except (KafkaError, OSError) as error:
                refusal = explain_refusal(settings, error)
                raise Unavailable(refusal or _explain_no_answer(settings, error)) from None

        return asyncio.run(run())


def _explain_no_answer(settings: KafkaSettings, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    return (
        f"Kafka at {settings.kafka_bootstrap_servers} does not answer ({reason}); start it, or"
        " check KAFKA_BOOTSTRAP_SERVERS"
    )
