"""`python -m services.scheduler`: builds one scheduler and runs it until SIGTERM.

Two commands are for disasters: `recover` after PostgreSQL was restored from a backup, `republish_job_states` after Kafka has lost its
data.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg

from services.scheduler.leadership.consumer import SchedulerConsumer
from services.scheduler.recovery.recover import Recovery
from services.scheduler.recovery.republish import republish_job_states
from services.scheduler.repository import SchedulerRepository
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
    log.configure("scheduler", settings.log_level, secrets=settings.secrets())
    tracing.configure("scheduler")
    await run_scheduler(settings, stop)


async def run_scheduler(settings: SchedulerSettings, stop: asyncio.Event, name: str | None = None) -> None:
    """Run one scheduler with these settings until `stop` is set."""
    name = name or process_name("scheduler")
    async with _servers(settings, name) as (pool, publisher):
        await SchedulerConsumer(
            name=name, settings=settings, store=SchedulerRepository(pool), publisher=publisher
        ).run(stop)


@asynccontextmanager
async def _servers(
    settings: SchedulerSettings, name: str
) -> AsyncIterator[tuple[asyncpg.Pool, Publisher]]:
    pool = await open_pool(settings, name=name)
    await clients.ensure_topics(settings)
    try:
        async with Publisher(settings, source=name) as publisher:
            yield pool, publisher
    finally:
        await pool.close()


async def _recover(since: datetime | None) -> None:
    settings = SchedulerSettings.from_environment()
    log.configure("recovery", settings.log_level)
    name = process_name("recovery")
    async with _servers(settings, name) as (pool, publisher):
        tally = await Recovery(settings, pool, publisher, since=since).run()
        await SchedulerRepository(pool).take_lead(
            name
        )  # a scheduler that runs meanwhile builds its order anew
    print(tally.told())


async def _retell(since: datetime | None) -> None:
    settings = SchedulerSettings.from_environment()
    log.configure("retelling", settings.log_level)
    kept = datetime.now(UTC) - timedelta(milliseconds=RESULTS.retention_ms)
    async with _servers(settings, process_name("retelling")) as (pool, publisher):
        print(f"{await republish_job_states(pool, publisher, since=since or kept)} jobs told again")


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text} has no zone; write it as in 2026-01-31T03:00:00+00:00"
        )
    return time


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m services.scheduler", description="Runs the scheduler"
    )
    parser.set_defaults(act=None)
    commands = parser.add_subparsers()
    for name, act, what in (
        (
            "recover",
            _recover,
            "after PostgreSQL was restored from a backup: bring back what Kafka still knows",
        ),
        ("republish_job_states", _retell, "after Kafka has lost its data: tell metrics what became of the jobs"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument(
            "--since", type=_time, help="leave out what is older (ISO 8601); default: seven days"
        )
        command.set_defaults(act=act)
    return parser.parse_args()


if __name__ == "__main__":
    given = _arguments()
    lifecycle.run_service(main if given.act is None else lambda _: given.act(given.since))
