"""`python -m services.scheduler`: runs one scheduler until SIGTERM.

Two commands repair a disaster: `recover` after a restore of PostgreSQL from a backup, and `retell`
after Kafka has lost its data.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg

from services.scheduler.leadership.consumer import SchedulerConsumer
from services.scheduler.recovery.recover import DatabaseRecovery
from services.scheduler.recovery.republish import republish_job_states
from services.scheduler.repository import EpochRepository
from services.scheduler.settings import SchedulerSettings
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.kafka.topics import RESULTS
from shared.observability import log, tracing
from shared.runtime import lifecycle
from shared.runtime.postgres import open_pool
from shared.runtime.settings import process_name


async def main(stop: asyncio.Event) -> None:
    settings = SchedulerSettings.from_environment()
    log.configure_logging("scheduler", settings.log_level, secrets=settings.secrets())
    tracing.configure_tracing("scheduler")
    await run_scheduler(settings, stop)


async def run_scheduler(
    settings: SchedulerSettings, stop: asyncio.Event, name: str | None = None
) -> None:
    """Run one scheduler with these settings until `stop` is set."""
    name = name or process_name("scheduler")
    async with _open_clients(settings, name) as (pool, publisher):
        consumer = SchedulerConsumer(
            name=name, settings=settings, epochs=EpochRepository(pool), publisher=publisher
        )
        await consumer.run_until_stopped(stop)


@asynccontextmanager
async def _open_clients(
    settings: SchedulerSettings, name: str
) -> AsyncIterator[tuple[asyncpg.Pool, Publisher]]:
    # The failure detector takes a replacement of all connections for a restart of PostgreSQL.
    pool = await open_pool(settings, name=name, keep_connections=True)
    await clients.ensure_topics(settings)
    try:
        async with Publisher(settings, source=name) as publisher:
            yield pool, publisher
    finally:
        await pool.close()


async def _recover_database(since: datetime | None) -> None:
    settings = SchedulerSettings.from_environment()
    log.configure_logging("recovery", settings.log_level)
    name = process_name("recovery")
    async with _open_clients(settings, name) as (pool, publisher):
        summary = await DatabaseRecovery(settings, pool, publisher, since=since).recover()
        # The new epoch makes a running scheduler restore its fair queue.
        await EpochRepository(pool).take_lead(name)
    print(summary.as_text())


async def _republish_jobs(since: datetime | None) -> None:
    settings = SchedulerSettings.from_environment()
    log.configure_logging("republish", settings.log_level)
    retained_since = datetime.now(UTC) - timedelta(milliseconds=RESULTS.retention_ms)
    async with _open_clients(settings, process_name("republish")) as (pool, publisher):
        jobs = await republish_job_states(pool, publisher, since=since or retained_since)
    print(f"{jobs} job states republished")


def _parse_time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text} has no time zone; write it as in 2026-01-31T03:00:00+00:00"
        )
    return time


_COMMANDS = (
    (
        "recover",
        _recover_database,
        "after a restore of PostgreSQL from a backup: restore the jobs that Kafka still has",
    ),
    (
        "retell",
        _republish_jobs,
        "after Kafka has lost its data: republish every job's state, so that metrics counts it",
    ),
)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m services.scheduler", description="Runs the scheduler"
    )
    parser.set_defaults(command=None)
    commands = parser.add_subparsers()
    for name, command, description in _COMMANDS:
        subparser = commands.add_parser(name, help=description, description=description)
        subparser.add_argument(
            "--since", type=_parse_time, help="skip older jobs (ISO 8601); default: seven days"
        )
        subparser.set_defaults(command=command)
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _parse_arguments()
    if arguments.command is None:
        lifecycle.run_service(main)
    else:
        lifecycle.run_service(lambda _: arguments.command(arguments.since))
