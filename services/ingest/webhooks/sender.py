"""Signs due deliveries and POSTs them.

A host is resolved once, and the connection goes to an address that has been checked. No redirect is
followed, no proxy of the environment is used, and the body of the response is not read. If the
process dies while sending, another one sends the delivery with the same `webhook-id`.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import asyncpg
import httpx

from services.ingest.webhooks import rules
from services.ingest.webhooks.repository import LeasedDelivery, WebhookRepository
from services.ingest.webhooks.rules import AttemptOutcome, ForbiddenTargetError, WebhookTarget
from shared.observability.log import get_logger
from shared.runtime.lifecycle import wait_for_event
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)

_MAX_SENDS = 20
_DEADLINE_S = 15.0
_CONNECT_S = 4.0
"""A silent address leaves time for the next one."""
_SLOW_S = 5.0
"""A store is slow when its last attempt took longer."""
_MAX_SLOW_STORES = 100
_LEASE_S = 60.0
_POLL_EVERY_S = 1.0
_RETRY_PAUSE_S = 2.0
_MAX_ERROR_LENGTH = 300

Resolve = Callable[[str, str, int], Awaitable[Sequence[str]]]
"""Looks up the addresses of a host and port on behalf of a store."""


class DeliverySender:
    """Polls for due deliveries, at once when `deliveries_due` is set.

    `loopback` allows http to this machine, for development.
    """

    def __init__(
        self,
        *,
        repository: WebhookRepository,
        resolve: Resolve,
        deliveries_due: asyncio.Event,
        loopback: bool,
        rng: random.Random,
    ) -> None:
        self._repository = repository
        self._resolve = resolve
        self._deliveries_due = deliveries_due
        self._loopback = loopback
        self._rng = rng
        self._sending: dict[asyncio.Task[None], str] = {}
        """The store of each send in progress."""
        self._slow_stores: dict[str, None] = {}
        """In the order of their last slow attempt, latest last."""

    async def run_until_cancelled(self) -> None:
        # One connection per delivery: a kept connection would be reused for another host name
        # with the same address.
        limits = httpx.Limits(max_connections=_MAX_SENDS, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            limits=limits,
            timeout=httpx.Timeout(_DEADLINE_S, connect=_CONNECT_S),
            headers={"User-Agent": "blogstream-webhooks"},
        ) as http:
            try:
                while True:
                    await self._start_due_sends(http)
            finally:
                for task in self._sending:
                    task.cancel()
                await asyncio.gather(*self._sending, return_exceptions=True)

    async def _start_due_sends(self, http: httpx.AsyncClient) -> None:
        self._deliveries_due.clear()
        free = _MAX_SENDS - len(self._sending)
        try:
            due = await self._lease_deliveries(free) if free else []
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
            log.warning(
                "dependency unavailable, retrying",
                dependency="PostgreSQL",
                operation="send webhooks",
                reason=f"{type(error).__name__}: {error}",
            )
            await asyncio.sleep(_RETRY_PAUSE_S)
            return
        for delivery in due:
            task = asyncio.create_task(self._deliver(http, delivery), name=f"webhook {delivery.id}")
            self._sending[task] = delivery.store
            task.add_done_callback(self._finish_send)
        await wait_for_event(self._deliveries_due, _POLL_EVERY_S)

    async def _lease_deliveries(self, free: int) -> Sequence[LeasedDelivery]:
        limit, blocked = rules.share_capacity(free, self._slow_stores)
        return await self._repository.lease_due_deliveries(
            limit,
            lease_s=_LEASE_S,
            per_store=rules.MAX_SENDS_PER_STORE,
            sending=[*self._sending.values(), *blocked],
        )

    def _finish_send(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._deliveries_due.set()  # capacity is free again
        if not task.cancelled() and task.exception() is not None:
            # The delivery is sent again when its lease expires.
            log.error("unhandled exception", operation=task.get_name(), exc_info=task.exception())

    async def _deliver(self, http: httpx.AsyncClient, delivery: LeasedDelivery) -> None:
        at, started = datetime.now(UTC), time.monotonic()
        try:
            secrets = await self._repository.list_secrets(delivery.store)
            outcome = await self._attempt(http, delivery, secrets, int(at.timestamp()))
            next_state = rules.decide_next_state(
                outcome, attempts=delivery.attempt, chance=self._rng.random()
            )
            seconds = round(time.monotonic() - started, 3)
            self._update_slow_stores(delivery.store, seconds)
            await self._repository.record_attempt(
                delivery, outcome, next_state, at=at, seconds=seconds
            )
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
            log.warning(
                "dependency unavailable, retrying",
                dependency="PostgreSQL",
                operation="record webhook attempt",
                reason=f"{type(error).__name__}: {error}",
            )
            return
        fields = {
            "delivery": str(delivery.id),
            "store": delivery.store,
            "attempt": delivery.attempt,
        }
        if next_state.state == "DELIVERED":
            log.info("webhook delivered", status=outcome.status, **fields)
        else:
            log.warning(
                "webhook not delivered",
                state=next_state.state,
                reason=outcome.error or f"answered {outcome.status}",
                internal_detail=outcome.internal_detail,
                **fields,
            )

    def _update_slow_stores(self, store: str, seconds: float) -> None:
        self._slow_stores.pop(store, None)
        if seconds > _SLOW_S:
            self._slow_stores[store] = None
            if len(self._slow_stores) > _MAX_SLOW_STORES:
                del self._slow_stores[next(iter(self._slow_stores))]

    async def _attempt(
        self, http: httpx.AsyncClient, delivery: LeasedDelivery, secrets: Sequence[str], at: int
    ) -> AttemptOutcome:
        try:
            target = rules.parse_target(delivery.url, loopback=self._loopback)
        except ForbiddenTargetError as error:
            return _forbidden(error, final=True)
        try:
            async with asyncio.timeout(_DEADLINE_S):
                found = await self._resolve_host(delivery, target)
                addresses = rules.pinned_addresses(target, found, loopback=self._loopback)
                requests = [
                    _signed_request(http, delivery, target, address, secrets, at)
                    for address in addresses
                ]
                status = await _send_to_first_reachable(http, requests)
        except ForbiddenTargetError as error:
            return _forbidden(error, final=False)
        except httpx.InvalidURL as error:
            text = f"the URL is none: {error}"[:_MAX_ERROR_LENGTH]
            return AttemptOutcome(status=None, error=text, final=True)
        except (httpx.HTTPError, OSError) as error:  # TimeoutError is an OSError
            text = f"{type(error).__name__}: {error}"[:_MAX_ERROR_LENGTH]
            return AttemptOutcome(status=None, error=text)
        return AttemptOutcome(status=status)

    async def _resolve_host(self, delivery: LeasedDelivery, target: WebhookTarget) -> Sequence[str]:
        """Return the host's addresses.

        Resolver errors go to the log only, because the resolver knows the internal network's names.
        """
        try:
            return await self._resolve(delivery.store, target.host, target.port)
        except TimeoutError as error:
            raise ForbiddenTargetError(
                "names a host that is not found in time", internal_detail=str(error)
            ) from None
        except (OSError, UnicodeError) as error:
            raise ForbiddenTargetError(
                rules.NOT_PUBLIC, internal_detail=f"{type(error).__name__}: {error}"
            ) from None


def _forbidden(error: ForbiddenTargetError, *, final: bool) -> AttemptOutcome:
    return AttemptOutcome(
        status=None,
        error=f"the URL {error}",
        internal_detail=error.internal_detail,
        final=final,
    )


async def _send_to_first_reachable(
    http: httpx.AsyncClient, requests: Sequence[httpx.Request]
) -> int:
    """Return the status of the first address that accepts a connection; the others get nothing."""
    *others, last = requests
    for request in others:
        with suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await _send(http, request)
    return await _send(http, last)


async def _send(http: httpx.AsyncClient, request: httpx.Request) -> int:
    response = await http.send(request, stream=True)
    await response.aclose()
    return response.status_code


def _signed_request(
    http: httpx.AsyncClient,
    delivery: LeasedDelivery,
    target: WebhookTarget,
    address: str,
    secrets: Sequence[str],
    at: int,
) -> httpx.Request:
    """Build a request to a checked address that names the host in TLS and in `Host`."""
    content, message = delivery.payload.encode(), rules.webhook_id(delivery.id)
    url = httpx.URL(delivery.url)
    return http.build_request(
        "POST",
        url.copy_with(host=address),
        content=content,
        extensions={"sni_hostname": target.host},
        headers={
            "Host": url.netloc.decode(),
            "Content-Type": "application/json",
            "webhook-id": message,
            "webhook-timestamp": str(at),
            "webhook-signature": rules.sign(secrets, message, at, content),
        },
    )
