"""`python -m services.generator` runs one worker until SIGTERM."""

import asyncio

from services.generator import service
from services.generator.settings import GeneratorSettings
from shared.observability import log, tracing
from shared.runtime import lifecycle
from shared.runtime.settings import process_name


async def main(stop: asyncio.Event) -> None:
    settings = GeneratorSettings.from_environment()
    log.configure_logging("generator", settings.log_level, secrets=settings.secrets())
    tracing.configure_tracing("generator")
    await service.run_worker(settings, stop, name=process_name("generator"))


if __name__ == "__main__":
    lifecycle.run_service(main)
