"""Puts ingest together and runs it."""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import httpx
from aiokafka.errors import KafkaError
from starlette.types import ASGIApp

from services.ingest.api import Api
from services.ingest.budgets import Budgets
from services.ingest.bulk import Bulk
from services.ingest.callers import Callers
from services.ingest.claims import Claims
from services.ingest.docs import Docs
from services.ingest.follower import Follower
from services.ingest.gates import Gates
from services.ingest.interventions import Interventions
from services.ingest.keys import KeyRing
from services.ingest.probes import Probes
from services.ingest.progress import Progress
from services.ingest.reading import JobReader
from services.ingest.relay import MetricsRelay
from services.ingest.results import Results
from services.ingest.routes import application
from services.ingest.settings import IngestSettings
from services.ingest.store import IngestStore
from services.ingest.underway import Underway
from services.ingest.webhooks.api import Deliveries
from services.ingest.webhooks.feed import Feed
from services.ingest.webhooks.resolver import Resolver
from services.ingest.webhooks.sender import Sender
from services.ingest.webhooks.store import WebhookStore
from shared import http, kafka
from shared.kafka_access import reachable
from shared.lifecycle import background
from shared.log import get_logger
from shared.postgres import NO_STORE, is_alive, open_pool

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
        pool = await open_pool(settings, name=name, seen=NO_STORE)
        closing.push_async_callback(_within, pool.close, name="PostgreSQL's pool")
        await kafka.ensure_topics(settings)
        publisher = kafka.Publisher(settings, source=name)
        await publisher.start()
        closing.push_async_callback(publisher.stop, within_s=_CLOSING_S)
        store, keys, gates, results = IngestStore(pool), KeyRing(pool), Gates(settings), Results(settings)
        if not await store.is_restricted():
            log.warning(
                "this login sees every store's rows: let `python -m migrations` make or grant one that does not"
            )
        claims = Claims(settings, publisher, timeout_s=settings.publish_timeout_s)
        followers = {
            gates.copy: gates.copy.start,
            claims.copy: claims.copy.start,
            results.copy: results.copy.start_at_end,
        }
        for copy, start in followers.items():
            closing.push_async_callback(_within, copy.stop, name="a topic's follower")
            await start()
        await keys.refresh()
        client = await closing.enter_async_context(httpx.AsyncClient(trust_env=False))
        needs = {
            "PostgreSQL": partial(is_alive, pool),
            "Kafka": partial(_reachable, settings),
            "gates": partial(_following, gates.copy),
            "claims": partial(_following, claims.copy),
        }
        webhooks, noted = WebhookStore(pool), asyncio.Event()
        sender = Sender(
            store=webhooks, resolve=Resolver().addresses, noted=noted, loopback=settings.webhook_allow_loopback,
            rng=random.Random(name),  # noqa: S311 - jitter, no secret
        )  # fmt: skip
        app = _application(
            settings, keys=keys, gates=gates, claims=claims, results=results, store=store,
            webhooks=webhooks, publisher=publisher, relay=MetricsRelay(client, settings.metrics_url),
            probes=Probes(needs=needs, draining=stop), draining=stop,
        )  # fmt: skip
        loops = {
            "keys": keys.keep_fresh(), "gates": gates.copy.follow(), "claims": claims.copy.follow(),
            "results": results.copy.follow(), "streams": results.end_with(stop),
            "webhooks' feed": Feed(settings, webhooks, noted).run(), "webhooks": sender.run(),
        }  # fmt: skip
        async with background(stop, **loops):
            log.info("ingest listens", host=settings.host, port=settings.port)
            await http.serve(app, listener, stop)
    log.info("ingest stopped")


def _application(  # noqa: PLR0913 - it puts all of them together
    settings: IngestSettings, *, keys: KeyRing, gates: Gates, claims: Claims, results: Results, store: IngestStore,
    webhooks: WebhookStore,
    publisher: kafka.Publisher, relay: MetricsRelay, probes: Probes, draining: asyncio.Event,
) -> ASGIApp:  # fmt: skip
    callers = Callers(keys, settings.ticket_rules)
    underway = Underway()
    reader = JobReader(store, claims=claims, underway=underway, fresh_wait_s=settings.fresh_wait_s)
    return application(
        api=Api(
            settings=settings, callers=callers, gates=gates, claims=claims, store=store, reader=reader,
            publisher=publisher,
        ),
        bulk=Bulk(
            settings=settings, callers=callers, gates=gates, claims=claims, store=store, publisher=publisher,
            underway=underway,
        ),
        interventions=Interventions(
            callers=callers, store=store, reader=reader, publisher=publisher,
            publish_timeout_s=settings.publish_timeout_s,
        ),
        progress=Progress(settings=settings, callers=callers, reader=reader, results=results, draining=draining),
        deliveries=Deliveries(callers, webhooks),
        budgets=Budgets(callers=callers, store=store, default_cost=settings.default_cost_nanousd),
        relay=relay, probes=probes,
        docs=Docs(), image_dir=settings.image_dir,
    )  # fmt: skip


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
