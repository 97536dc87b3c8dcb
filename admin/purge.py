"""`purge`: removes jobs that ended long ago, with all that hangs on them. What stores have spent stays booked."""

import argparse
from argparse import Namespace
from datetime import datetime
from pathlib import Path

import asyncpg

from admin.context import Subcommands, CommandContext, add_command, print_message
from shared.domain.job import ENDED
from shared.kafka.topics import TOPICS
from shared.runtime.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "purge.sql")
_BATCH = 1_000
"""Jobs a statement: locks are held for a moment, and what is interrupted has lost little."""
MIN_AGE_DAYS = 2 * max(topic.retention_ms for topic in TOPICS) // (24 * 3600 * 1000)
"""A record that comes after its job was removed is a new job, and paid for anew: of a dead letter that is replayed, or
of a topic that is read again. So what Kafka may still have, twice over, is never removed."""


def add_commands(commands: Subcommands, name: str) -> None:
    """Add this command to a parser's."""
    own = add_command(
        commands,
        name,
        _purge,
        "Remove jobs that ended long ago, with their steps, posts and webhook deliveries. Not what stores have spent.",
    )
    own.add_argument(
        "--older-than",
        dest="parse_days",
        type=parse_days,
        required=True,
        metavar="DAYSd",
        help=f"since their end, 365d for example; at least {MIN_AGE_DAYS}d",
    )
    own.add_argument("--dry-run", action="store_true", help="only say how many")


def parse_days(text: str) -> int:
    """Of `365d`, or 365."""
    number = text.removesuffix("d")
    if not (number.isascii() and number.isdecimal() and MIN_AGE_DAYS <= int(number) <= 36_500):
        raise argparse.ArgumentTypeError(
            f"must be days, from {MIN_AGE_DAYS}d on: until then Kafka may name the jobs"
        )
    return int(number)


def _purge(chosen: Namespace, place: CommandContext) -> int:
    place.run_with_database(lambda connection: _report(connection, chosen.days, dry=chosen.dry_run))
    return 0


async def _report(connection: asyncpg.Connection, age: int, *, dry: bool) -> None:
    before: datetime = await connection.fetchval(_QUERIES["before"], age)
    if dry:
        found = await connection.fetchrow(_QUERIES["count"], before, list(ENDED))
        assert found is not None
        print(
            f"{found['jobs']} jobs of {found['stores']} stores ended before {before:%Y-%m-%d %H:%M} UTC; all stay"
        )
        return
    print(
        f"{await remove_ended_jobs(connection, before)} jobs that ended before {before:%Y-%m-%d %H:%M} UTC are removed"
    )


async def remove_ended_jobs(connection: asyncpg.Connection, before: datetime, *, batch: int = _BATCH) -> int:
    """Remove what ended before then, batch after batch, each a transaction: how many jobs."""
    removed = 0
    while some := await connection.fetchval(_QUERIES["remove_ended_jobs"], before, list(ENDED), batch):
        removed += some
        if removed % (100 * batch) == 0:
            print_message(f"{removed} jobs are removed so far")
    return removed
