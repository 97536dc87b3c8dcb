"""`python -m services.metrics`: aggregates and serves until SIGTERM."""

import asyncio

from services.metrics import service
from services.metrics.settings import MetricsSettings
from shared import lifecycle, log


async def main(stop: asyncio.Event) -> None:
    settings = MetricsSettings.from_environment()
    webhook = settings.alert_webhook_url
    log.configure("metrics", settings.log_level, secrets=[webhook.get_secret_value()] if webhook is not None else [])
    await service.run(settings, stop)


if __name__ == "__main__":
    lifecycle.run(main)
