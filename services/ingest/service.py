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

from services.ingest.auth.authenticator import Callers
from services.ingest.auth.key_ring import KeyRing
from services.ingest.budgets.handlers import Budgets
from services.ingest.http.metrics_relay import MetricsRelay
from services.ingest.http.probes import Probes
from services.ingest.http.routes import application
from services.ingest.jobs.actions import Interventions
from services.ingest.jobs.event_stream import Progress
from services.ingest.jobs.reader import JobReader
from services.ingest.jobs.repository import IngestStore
from services.ingest.jobs.subscriptions import Results
from services.ingest.openapi.pages import Docs
from services.ingest.settings import IngestSettings
from services.ingest.submit.admission import Gates
from services.ingest.submit.bulk import Bulk
from services.ingest.submit.bulk_reservations import Underway
from services.ingest.submit.handlers import Api
from services.ingest.submit.idempotency import Claims
from services.ingest.webhooks.consumer import Feed
from services.ingest.webhooks.handlers import Deliveries
from services.ingest.webhooks.repository import WebhookStore
from services.ingest.webhooks.resolver import Resolver
from services.ingest.webhooks.sender import Sender
from shared.http import server
from shared.kafka import clients
from shared.kafka.access import check_reachable
from shared.kafka.follower import TopicFollower
from shared.kafka.publisher import Publisher
from shared.observability.log import get_logger
from shared.runtime.lifecycle import background_tasks
from shared.runtime.postgres import NO_STORE, is_reachable, open_pool

log = get_logger(__name__)

_CLOSING_S = 5.0


async def run(settings: IngestSettings, stop: asyncio.Event, *, name: str) -> None:
    """Serve until `stop` is set; open requests are finished before this returns."""
    listener = server.open_listener(settings.host, settings.port)
    try:
        await _run(settings, stop, name, listener)
    finally:
        listener.close()


async def _run(
    settings: IngestSettings, stop: asyncio.Event, name: str, listener: socket.socket
) -> None:
    async with AsyncExitStack() as closing:
        pool = await open_pool(settings, name=name, visible_store=NO_STORE)
        closing.push_async_callback(_within, pool.close, name="PostgreSQL's pool")
        await clients.ensure_topics(settings)
        publisher = Publisher(settings, source=name)
        await publisher.start()
        closing.push_async_callback(publisher.stop, within_s=_CLOSING_S)
        store, keys, gates, results = (
            IngestStore(pool),
            KeyRing(pool),
            Gates(settings),
            Results(settings),
        )
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
            "PostgreSQL": partial(is_reachable, pool),
            "Kafka": partial(_reachable, settings),
            "gates": partial(_following, gates.copy),
            "claims": partial(_following, claims.copy),
        }
        webhooks, noted = WebhookStore(pool), asyncio.Event()
        sender = Sender(
            store=webhooks,
            resolve=Resolver().addresses,
            noted=noted,
            loopback=settings.webhook_allow_loopback,
            rng=random.Random(name),  # noqa: S311 - jitter, no secret
        )
        app = _application(
            settings,
            keys=keys,
            gates=gates,
            claims=claims,
            results=results,
            store=store,
            webhooks=webhooks,
            publisher=publisher,
            relay=MetricsRelay(client, settings.metrics_url),
            probes=Probes(needs=needs, draining=stop),
            draining=stop,
        )
        loops = {
            "keys": keys.keep_fresh(),
            "gates": gates.copy.follow(),
            "claims": claims.copy.follow(),
            "results": results.copy.follow(),
            "streams": results.end_with(stop),
            "webhooks' feed": Feed(settings, webhooks, noted).run(),
            "webhooks": sender.run(),
        }
        async with background_tasks(stop, **loops):
            log.info("ingest listens", host=settings.host, port=settings.port)
            await server.serve_http(app, listener, stop)
    log.info("ingest stopped")


def _application(  # noqa: PLR0913 - it puts all of them together
    settings: IngestSettings,
    *,
    keys: KeyRing,
    gates: Gates,
    claims: Claims,
    results: Results,
    store: IngestStore,
    webhooks: WebhookStore,
    publisher: Publisher,
    relay: MetricsRelay,
    probes: Probes,
    draining: asyncio.Event,
) -> ASGIApp:
    callers = Callers(keys, settings.ticket_rules)
    underway = Underway()
    reader = JobReader(store, claims=claims, underway=underway, fresh_wait_s=settings.fresh_wait_s)
    return application(
        api=Api(
            settings=settings,
            callers=callers,
            gates=gates,
            claims=claims,
            store=store,
            reader=reader,
            publisher=publisher,
        ),
        bulk=Bulk(
            settings=settings,
            callers=callers,
            gates=gates,
            claims=claims,
            store=store,
            publisher=publisher,
            underway=underway,
        ),
        interventions=Interventions(
            callers=callers,
            store=store,
            reader=reader,
            publisher=publisher,
            publish_timeout_s=settings.publish_timeout_s,
        ),
        progress=Progress(
            settings=settings, callers=callers, reader=reader, results=results, draining=draining
        ),
        deliveries=Deliveries(callers, webhooks),
        budgets=Budgets(callers=callers, store=store, default_cost=settings.default_cost_nanousd),
        relay=relay,
        probes=probes,
        docs=Docs(),
        image_dir=settings.image_dir,
    )


async def _reachable(settings: IngestSettings) -> bool:
    try:
        async with asyncio.timeout(1):
            await check_reachable(settings)
    except (OSError, KafkaError):  # TimeoutError is an OSError
        return False
    return True


async def _following(copy: TopicFollower) -> bool:
    return copy.following


async def _within(close: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Close something, and go on when it hangs: what it needs may be away, and a process told to stop must stop."""
    try:
        async with asyncio.timeout(_CLOSING_S):
            await close()
    except TimeoutError:
        log.warning("could not be closed in time", what=name)
