"""`purge`: removes old ended jobs with their steps, posts and deliveries. Spend stays booked."""

import argparse
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import asyncpg

from admin.context import CommandContext, Subcommands, add_command, print_message
from shared.domain.job import ENDED
from shared.kafka.topics import TOPICS
from shared.runtime.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "purge.sql")
_BATCH = 1_000
"""Jobs a statement. Locks are held briefly, and an interrupted purge loses little work."""
MIN_AGE_DAYS = 2 * max(topic.retention_ms for topic in TOPICS) // (24 * 3600 * 1000)
"""Twice the longest retention of a topic.

A record that is read after its job was removed (a replayed dead letter, a topic that is read again)
becomes a new job and is paid for again. So no job is removed while Kafka may still name it.
"""


def add_commands(commands: Subcommands, name: str) -> None:
    """Add this command to a parser."""
    own = add_command(
        commands,
        name,
        _purge,
        "Remove jobs that ended long ago, with their steps, posts and webhook deliveries. Not what"
        " stores have spent.",
    )
    own.add_argument(
        "--older-than",
        dest="days",
        type=parse_days,
        required=True,
        metavar="DAYSd",
        help=f"since their end, 365d for example; at least {MIN_AGE_DAYS}d",
    )
    own.add_argument("--dry-run", action="store_true", help="only say how many")


def parse_days(text: str) -> int:
    """The number of days in `365d` or `365`."""
    number = text.removesuffix("d")
    if not (number.isascii() and number.isdecimal() and MIN_AGE_DAYS <= int(number) <= 36_500):
        raise argparse.ArgumentTypeError(
            f"must be days, from {MIN_AGE_DAYS}d on: until then Kafka may name the jobs"
        )
    return int(number)


def _purge(arguments: Namespace, context: CommandContext) -> int:
    context.run_with_database(
        lambda connection: _purge_and_report(connection, arguments.days, dry=arguments.dry_run)
    )
    return 0


async def _purge_and_report(connection: asyncpg.Connection, age_days: int, *, dry: bool) -> None:
    before: datetime = await connection.fetchval(_QUERIES["before"], age_days)
    limit = f"{before:%Y-%m-%d %H:%M} UTC"
    if dry:
        found = await connection.fetchrow(_QUERIES["count"], before, list(ENDED))
        assert found is not None
        print(f"{found['jobs']} jobs of {found['stores']} stores ended before {limit}; all stay")
        return
    removed = await remove_ended_jobs(connection, before)
    print(f"{removed} jobs that ended before {limit} are removed")


async def remove_ended_jobs(
    connection: asyncpg.Connection, before: datetime, *, batch: int = _BATCH
) -> int:
    """Remove jobs that ended before a time, one transaction for each batch. Return how many."""
    removed = 0
    while count := await connection.fetchval(_QUERIES["remove"], before, list(ENDED), batch):
        removed += count
        if removed % (100 * batch) == 0:
            print_message(f"{removed} jobs are removed so far")
    return removed
