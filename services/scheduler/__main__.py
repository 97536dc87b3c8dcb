"""`python -m services.scheduler`: builds one scheduler and runs it until SIGTERM. `python -m services.scheduler
recover`: after PostgreSQL was restored from a backup, brings back what Kafka still knows."""

import argparse
import asyncio
from datetime import datetime

from services.scheduler.loop import Scheduler
from services.scheduler.recovery import Recovery
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import SchedulerStore
from shared import kafka, lifecycle, log, tracing
from shared.postgres import open_pool
from shared.settings import process_name


async def main(stop: asyncio.Event) -> None:
    settings = SchedulerSettings.from_environment()
    log.configure("scheduler", settings.log_level)
    tracing.configure("scheduler")
    await run(settings, stop)


async def run(settings: SchedulerSettings, stop: asyncio.Event, name: str | None = None) -> None:
    """Run one scheduler with these settings until `stop` is set."""
    name = name or process_name("scheduler")
    pool = await open_pool(settings, name=name)
    await kafka.ensure_topics(settings)
    try:
        async with kafka.Publisher(settings, source=name) as publisher:
            await Scheduler(name=name, settings=settings, store=SchedulerStore(pool), publisher=publisher).run(stop)
    finally:
        await pool.close()


async def recover(settings: SchedulerSettings, since: datetime | None) -> str:
    """Correct a restored database. What was found, in a few lines."""
    name = process_name("recovery")
    pool = await open_pool(settings, name=name)
    await kafka.ensure_topics(settings)
    try:
        async with kafka.Publisher(settings, source=name) as publisher:
            tally = await Recovery(settings, pool, publisher, since=since).run()
        await SchedulerStore(pool).take_lead(name)  # one that runs beside us builds its order anew
    finally:
        await pool.close()
    return tally.told()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.scheduler", description="Runs the scheduler")
    commands = parser.add_subparsers(dest="command")
    recovering = commands.add_parser("recover", help="after a restore: bring back what Kafka still knows")
    recovering.add_argument(
        "--since", type=datetime.fromisoformat, help="leave out what is older (ISO 8601 with a zone); default: nothing"
    )
    arguments = parser.parse_args()
    if arguments.command == "recover" and arguments.since is not None and arguments.since.tzinfo is None:
        parser.error("--since needs a zone, as in 2026-01-31T03:00:00+00:00")
    return arguments


async def _recover(since: datetime | None) -> None:
    settings = SchedulerSettings.from_environment()
    log.configure("recovery", settings.log_level)
    print(await recover(settings, since))


if __name__ == "__main__":
    given = _arguments()
    lifecycle.run(main if given.command is None else lambda _: _recover(given.since))
