"""Builds the ingest service from its parts and serves it."""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import asyncpg
import httpx
from aiokafka.errors import KafkaError
from starlette.types import ASGIApp

from services.ingest.auth.authenticator import Authenticator
from services.ingest.auth.key_ring import KeyRing
from services.ingest.budgets.handlers import BudgetHandlers
from services.ingest.budgets.repository import BudgetRepository
from services.ingest.http.metrics_relay import MetricsRelay
from services.ingest.http.probes import Probes
from services.ingest.http.routes import Handlers, create_application
from services.ingest.jobs.event_stream import JobEventStream
from services.ingest.jobs.handlers import JobHandlers
from services.ingest.jobs.reader import JobReader
from services.ingest.jobs.repository import JobRepository
from services.ingest.jobs.subscriptions import ResultSubscriptions
from services.ingest.jobs.user_actions import UserActionHandlers
from services.ingest.openapi.pages import DocsPages
from services.ingest.settings import IngestSettings
from services.ingest.submit.admission import AdmissionView
from services.ingest.submit.bulk import BulkSubmitHandler
from services.ingest.submit.handlers import SubmitHandler
from services.ingest.submit.idempotency import IdempotencyIndex
from services.ingest.submit.unadmitted_jobs import UnadmittedBulkJobs
from services.ingest.webhooks.consumer import DeliveryConsumer
from services.ingest.webhooks.handlers import DeliveryHandlers
from services.ingest.webhooks.repository import WebhookRepository
from services.ingest.webhooks.resolver import HostResolver
from services.ingest.webhooks.sender import DeliverySender
from shared.http import server
from shared.kafka import clients
from shared.kafka.access import check_reachable
from shared.kafka.follower import TopicFollower
from shared.kafka.publisher import Publisher
from shared.observability.log import get_logger
from shared.runtime.lifecycle import background_tasks
from shared.runtime.postgres import NO_STORE, is_reachable, open_pool

log = get_logger(__name__)

_CLOSE_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The started parts that handlers share."""

    pool: asyncpg.Pool
    publisher: Publisher
    http: httpx.AsyncClient
    keys: KeyRing
    admission: AdmissionView
    idempotency: IdempotencyIndex
    subscriptions: ResultSubscriptions


async def run_ingest(settings: IngestSettings, stop: asyncio.Event, *, name: str) -> None:
    """Serve until `stop` is set, and finish open requests before returning."""
    listener = server.open_listener(settings.host, settings.port)
    try:
        await _serve(settings, stop, name, listener)
    finally:
        listener.close()


async def _serve(
    settings: IngestSettings, stop: asyncio.Event, name: str, listener: socket.socket
) -> None:
    async with AsyncExitStack() as stack:
        parts = await _start_parts(settings, name, stack)
        deliveries_due = asyncio.Event()
        webhooks = WebhookRepository(parts.pool)
        consumer = DeliveryConsumer(settings, webhooks, deliveries_due)
        sender = DeliverySender(
            repository=webhooks,
            resolve=HostResolver().resolve,
            deliveries_due=deliveries_due,
            loopback=settings.webhook_allow_loopback,
            rng=random.Random(name),  # noqa: S311 - jitter, no secret
        )
        loops = {
            "API keys": parts.keys.refresh_periodically(),
            "admission": parts.admission.follower.follow_topic(),
            "idempotency": parts.idempotency.follower.follow_topic(),
            "subscriptions": parts.subscriptions.follower.follow_topic(),
            "event streams": parts.subscriptions.close_when_stopped(stop),
            "delivery consumer": consumer.run_until_cancelled(),
            "delivery sender": sender.run_until_cancelled(),
        }
        app = _create_application(settings, parts, webhooks, draining=stop)
        async with background_tasks(stop, **loops):
            log.info("ingest started", host=settings.host, port=settings.port)
            await server.serve_http(app, listener, stop)
    log.info("ingest stopped")


async def _start_parts(settings: IngestSettings, name: str, stack: AsyncExitStack) -> _Parts:
    """Start everything that handlers need; `stack` closes it in reverse order."""
    pool = await open_pool(settings, name=name, visible_store=NO_STORE)
    stack.push_async_callback(_close_within_deadline, pool.close, name="PostgreSQL pool")
    await clients.ensure_topics(settings)
    publisher = Publisher(settings, source=name)
    await publisher.start()
    stack.push_async_callback(publisher.stop, within_s=_CLOSE_DEADLINE_S)
    if not await JobRepository(pool).is_restricted():
        log.warning(
            "row-level security is off for this login",
            remedy="let `python -m migrations` create or grant a restricted login",
        )
    keys, admission, subscriptions = (
        KeyRing(pool),
        AdmissionView(settings),
        ResultSubscriptions(settings),
    )
    idempotency = IdempotencyIndex(settings, publisher, timeout_s=settings.publish_timeout_s)
    starts = {
        admission.follower: admission.follower.start,
        idempotency.follower: idempotency.follower.start,
        subscriptions.follower: subscriptions.follower.start_at_end,
    }
    for follower, start in starts.items():
        stack.push_async_callback(_close_within_deadline, follower.stop, name="topic follower")
        await start()
    await keys.refresh_keys()
    http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
    return _Parts(
        pool=pool,
        publisher=publisher,
        http=http,
        keys=keys,
        admission=admission,
        idempotency=idempotency,
        subscriptions=subscriptions,
    )


def _create_application(
    settings: IngestSettings, parts: _Parts, webhooks: WebhookRepository, *, draining: asyncio.Event
) -> ASGIApp:
    authenticator = Authenticator(parts.keys, settings.ticket_policy)
    jobs, budgets = JobRepository(parts.pool), BudgetRepository(parts.pool)
    unadmitted = UnadmittedBulkJobs()
    reader = JobReader(
        jobs,
        idempotency=parts.idempotency,
        unadmitted=unadmitted,
        fresh_wait_s=settings.fresh_wait_s,
    )
    handlers = Handlers(
        submit=SubmitHandler(
            settings=settings,
            authenticator=authenticator,
            admission=parts.admission,
            idempotency=parts.idempotency,
            budgets=budgets,
            publisher=parts.publisher,
        ),
        bulk=BulkSubmitHandler(
            settings=settings,
            authenticator=authenticator,
            admission=parts.admission,
            idempotency=parts.idempotency,
            jobs=jobs,
            budgets=budgets,
            publisher=parts.publisher,
            unadmitted=unadmitted,
        ),
        jobs=JobHandlers(authenticator=authenticator, jobs=jobs, reader=reader),
        user_actions=UserActionHandlers(
            authenticator=authenticator,
            jobs=jobs,
            reader=reader,
            publisher=parts.publisher,
            publish_timeout_s=settings.publish_timeout_s,
        ),
        event_stream=JobEventStream(
            settings=settings,
            authenticator=authenticator,
            reader=reader,
            subscriptions=parts.subscriptions,
            draining=draining,
        ),
        deliveries=DeliveryHandlers(authenticator, webhooks),
        budgets=BudgetHandlers(
            authenticator=authenticator, budgets=budgets, default_cost=settings.default_cost_nanousd
        ),
        metrics=MetricsRelay(parts.http, settings.metrics_url),
        probes=Probes(dependencies=_dependencies(settings, parts), draining=draining),
        docs=DocsPages(),
    )
    return create_application(handlers, image_dir=settings.image_dir)


def _dependencies(
    settings: IngestSettings, parts: _Parts
) -> dict[str, Callable[[], Awaitable[bool]]]:
    """Return the readiness checks. Their names are part of the 503's JSON."""
    return {
        "PostgreSQL": partial(is_reachable, parts.pool),
        "Kafka": partial(_is_kafka_reachable, settings),
        "gates": partial(_is_following, parts.admission.follower),
        "claims": partial(_is_following, parts.idempotency.follower),
    }


async def _is_kafka_reachable(settings: IngestSettings) -> bool:
    try:
        async with asyncio.timeout(1):
            await check_reachable(settings)
    except (OSError, KafkaError):  # TimeoutError is an OSError
        return False
    return True


async def _is_following(follower: TopicFollower) -> bool:
    return follower.following


async def _close_within_deadline(close: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Close a part, but abandon it after the deadline: an outage must not prevent the exit."""
    try:
        async with asyncio.timeout(_CLOSE_DEADLINE_S):
            await close()
    except TimeoutError:
        log.warning("close timed out", part=name)
