"""`python -m services.ingest`: serves HTTP until SIGTERM."""

import asyncio

from services.ingest import service
from services.ingest.settings import IngestSettings
from shared.observability import log, tracing
from shared.runtime import lifecycle
from shared.runtime.settings import process_name


async def main(stop: asyncio.Event) -> None:
    settings = IngestSettings.from_environment()
    log.configure_logging("ingest", settings.log_level, secrets=settings.secrets())
    tracing.configure_tracing("ingest")
    await service.run_ingest(settings, stop, name=process_name("ingest"))


if __name__ == "__main__":
    lifecycle.run_service(main)
