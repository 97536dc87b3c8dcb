"""Puts ingest together and runs it."""

import asyncio
import socket

import httpx

from services.ingest.api import Api
from services.ingest.keys import KeyRing
from services.ingest.relay import MetricsRelay
from services.ingest.settings import IngestSettings
from services.ingest.store import IngestStore
from shared import http, kafka
from shared.log import get_logger
from shared.postgres import is_alive, open_pool

log = get_logger(__name__)


async def run(settings: IngestSettings, stop: asyncio.Event, *, name: str) -> None:
    """Serve until `stop` is set; open requests are finished before this returns."""
    listener = http.listen(settings.host, settings.port)
    try:
        await _run(settings, stop, name, listener)
    finally:
        listener.close()


async def _run(settings: IngestSettings, stop: asyncio.Event, name: str, listener: socket.socket) -> None:
    pool = await open_pool(settings, name=name)
    await kafka.ensure_topics(settings)
    publisher = kafka.Publisher(settings, source=name)
    await publisher.start()
    keys = KeyRing(pool)
    await keys.refresh()
    refreshing = asyncio.create_task(keys.keep_fresh(), name="api keys")
    async with httpx.AsyncClient(timeout=5) as client:
        api = Api(
            settings=settings, keys=keys, store=IngestStore(pool), publisher=publisher,
            relay=MetricsRelay(client, settings.metrics_url), database_alive=lambda: is_alive(pool), draining=stop,
        )  # fmt: skip
        log.info("ingest listens", host=settings.host, port=settings.port)
        try:
            await http.serve(api.application(), listener, stop)
        finally:
            refreshing.cancel()
            await publisher.stop()
            await pool.close()
    log.info("ingest stopped")
