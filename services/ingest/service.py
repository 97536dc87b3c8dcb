"""Puts ingest together and runs it."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import httpx
from aiokafka.errors import KafkaError

from services.ingest.api import Api
from services.ingest.claims import Claims
from services.ingest.follower import Follower
from services.ingest.gates import Gates
from services.ingest.keys import KeyRing
from services.ingest.probes import Probes
from services.ingest.relay import MetricsRelay
from services.ingest.settings import IngestSettings
from services.ingest.store import IngestStore
from shared import http, kafka
from shared.kafka_access import reachable
from shared.lifecycle import background
from shared.log import get_logger
from shared.postgres import is_alive, open_pool

log = get_logger(__name__)

_CLOSING_S = 5.0


async def run(settings: IngestSettings, stop: asyncio.Event, *, name: str) -> None:
    """Serve until `stop` is set; open requests are finished before this returns."""
    listener = http.listen(settings.host, settings.port)
    try:
        await _run(settings, stop, name, listener)
    finally:
        listener.close()


async def _run(settings: IngestSettings, stop: asyncio.Event, name: str, listener: socket.socket) -> None:
    async with AsyncExitStack() as closing:
        pool = await open_pool(settings, name=name)
        closing.push_async_callback(_within, pool.close, name="PostgreSQL's pool")
        await kafka.ensure_topics(settings)
        publisher = kafka.Publisher(settings, source=name)
        await publisher.start()
        closing.push_async_callback(publisher.stop, within_s=_CLOSING_S)
        keys, gates = KeyRing(pool), Gates(settings)
        claims = Claims(settings, publisher, timeout_s=settings.publish_timeout_s)
        for copy in (gates.copy, claims.copy):
            closing.push_async_callback(_within, copy.stop, name="a topic's follower")
            await copy.start()
        await keys.refresh()
        client = await closing.enter_async_context(httpx.AsyncClient(trust_env=False))
        needs = {
            "PostgreSQL": partial(is_alive, pool),
            "Kafka": partial(_reachable, settings),
            "gates": partial(_following, gates.copy),
            "claims": partial(_following, claims.copy),
        }
        api = Api(
            settings=settings, keys=keys, gates=gates, claims=claims, store=IngestStore(pool), publisher=publisher,
            relay=MetricsRelay(client, settings.metrics_url), probes=Probes(needs=needs, draining=stop),
        )  # fmt: skip
        async with background(stop, keys=keys.keep_fresh(), gates=gates.copy.follow(), claims=claims.copy.follow()):
            log.info("ingest listens", host=settings.host, port=settings.port)
            await http.serve(api.application(), listener, stop)
    log.info("ingest stopped")


async def _reachable(settings: IngestSettings) -> bool:
    try:
        async with asyncio.timeout(1):
            await reachable(settings)
    except (OSError, KafkaError):  # TimeoutError is an OSError
        return False
    return True


async def _following(copy: Follower) -> bool:
    return copy.following


async def _within(close: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Close something, and go on when it hangs: what it needs may be away, and a process told to stop must stop."""
    try:
        async with asyncio.timeout(_CLOSING_S):
            await close()
    except TimeoutError:
        log.warning("could not be closed in time", what=name)
