"""`python -m services.metrics`: aggregates and serves until SIGTERM. `python -m services.metrics rebuild`: counts all
events that Kafka still has from scratch, from the next start on."""

import asyncio
import sys

from services.metrics import service
from services.metrics.counting import table_generation
from services.metrics.settings import MetricsSettings
from shared.kafka import clients
from shared.observability import log
from shared.runtime import lifecycle

_USAGE = "usage: python -m services.metrics [rebuild]"


async def main(stop: asyncio.Event) -> None:
    settings = MetricsSettings.from_environment()
    log.configure_logging("metrics", settings.log_level, secrets=settings.secrets())
    await service.run(settings, stop)


async def rebuild(_: asyncio.Event) -> None:
    """Set back what is counted. `Unavailable` while a process counts."""
    settings = MetricsSettings.from_environment()
    log.configure_logging("metrics", settings.log_level, secrets=settings.secrets())
    await clients.ensure_topics(settings)
    number = await table_generation.begin_next(settings)
    log.get_logger(__name__).info(
        "the next start of metrics counts all events from scratch", generation=number
    )


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["rebuild"]):
        sys.exit(_USAGE)
    lifecycle.run_service(rebuild if sys.argv[1:] else main)
