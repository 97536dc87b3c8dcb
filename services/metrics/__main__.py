"""`python -m services.metrics`: counts and serves until SIGTERM.

`python -m services.metrics rebuild`: makes the next start count all events that Kafka still has
from scratch.
"""

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
    await service.run_until_stopped(settings, stop)


async def rebuild(_: asyncio.Event) -> None:
    """Create the next table generation. `Unavailable` while a metrics process runs."""
    settings = MetricsSettings.from_environment()
    log.configure_logging("metrics", settings.log_level, secrets=settings.secrets())
    await clients.ensure_topics(settings)
    number = await table_generation.create_next(settings)
    log.get_logger(__name__).info(
        "next start of metrics counts all events from scratch", generation=number
    )


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["rebuild"]):
        sys.exit(_USAGE)
    lifecycle.run_service(rebuild if sys.argv[1:] else main)
