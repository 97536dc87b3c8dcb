"""`python -m services.scheduler`: builds one scheduler and runs it until SIGTERM."""

import asyncio

from services.scheduler.loop import Scheduler
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import SchedulerStore
from shared import kafka, lifecycle, log, tracing
from shared.postgres import open_pool
from shared.settings import process_name


async def main(stop: asyncio.Event) -> None:
    settings = SchedulerSettings.from_environment()
    log.configure("scheduler", settings.log_level, secrets=settings.secrets())
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


if __name__ == "__main__":
    lifecycle.run(main)
