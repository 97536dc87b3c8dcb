"""Due deliveries → signed POSTs. A name is resolved once, and the connection goes to the address that was judged.

Nothing else is trusted: no redirect is followed, no proxy of the environment used, no more than a little of the answer
read. Whoever dies while sending leaves the delivery to others, with the same `webhook-id`.
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
from services.ingest.webhooks.repository import Delivery, WebhookStore
from services.ingest.webhooks.rules import ForbiddenTargetError, Outcome
from shared.observability.log import get_logger
from shared.runtime.lifecycle import wait_for_event
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)

_AT_ONCE = 20
_DEADLINE_S = 15.0
_CONNECT_S = 4.0
"""An address that says nothing leaves time for the next."""
_SLOW_S = 5.0
"""A store whose last attempt took longer is slow, until one is quicker."""
_SLOW_KNOWN = 100
_LEASE_S = 60.0
_LOOK_EVERY_S = 1.0
_AWAY_PAUSE_S = 2.0
_LONGEST_REASON = 300

Resolve = Callable[[str, str, int], Awaitable[Sequence[str]]]
"""The addresses that a host and port have, looked up for a store."""


class Sender:
    """`noted` is set when there are new deliveries, or room for another.

    `loopback` allows http to this machine, for development.
    """

    def __init__(
        self,
        *,
        store: WebhookStore,
        resolve: Resolve,
        noted: asyncio.Event,
        loopback: bool,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._resolve = resolve
        self._noted = noted
        self._loopback = loopback
        self._rng = rng
        self._sending: dict[asyncio.Task[None], str] = {}
        self._slow: dict[str, None] = {}
        """Stores, those found out last at the end."""

    async def run(self) -> None:
        """Until cancelled."""
        # A connection a delivery: one that is kept would be found again by its address, under another host's name.
        limits = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            limits=limits,
            timeout=httpx.Timeout(_DEADLINE_S, connect=_CONNECT_S),
            headers={"User-Agent": "blogstream-webhooks"},
        ) as http:
            try:
                while True:
                    await self._turn(http)
            finally:
                for task in self._sending:
                    task.cancel()
                await asyncio.gather(*self._sending, return_exceptions=True)

    async def _turn(self, http: httpx.AsyncClient) -> None:
        self._noted.clear()
        free = _AT_ONCE - len(self._sending)
        try:
            due = await self._due(free) if free else []
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
            log.warning(
                "webhooks are not sent: PostgreSQL is away",
                reason=f"{type(error).__name__}: {error}",
            )
            await asyncio.sleep(_AWAY_PAUSE_S)
            return
        for delivery in due:
            task = asyncio.create_task(self._deliver(http, delivery), name=f"webhook {delivery.id}")
            self._sending[task] = delivery.store
            task.add_done_callback(self._sent)
        await wait_for_event(self._noted, _LOOK_EVERY_S)

    async def _due(self, free: int) -> Sequence[Delivery]:
        most, held_back = rules.share(free, self._slow)
        sending = [*self._sending.values(), *held_back]
        return await self._store.take(
            most, for_s=_LEASE_S, of_one_store=rules.OF_ONE_STORE, sending=sending
        )

    def _sent(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._noted.set()  # there is room again
        if (
            not task.cancelled() and task.exception() is not None
        ):  # taken up again when its lease has ended
            log.error("a delivery ended in a fault of ours", exc_info=task.exception())

    async def _deliver(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        at, began = datetime.now(UTC), time.monotonic()
        try:
            secrets = await self._store.secrets(delivery.store)
            outcome = await self._post(http, delivery, secrets, int(at.timestamp()))
            verdict = rules.judge(outcome, attempts=delivery.attempt, chance=self._rng.random())
            seconds = round(time.monotonic() - began, 3)
            self._note_pace(delivery.store, seconds)
            await self._store.finish(delivery, outcome, verdict, at=at, seconds=seconds)
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError) as error:
            log.warning(
                "a delivery could not be noted: it comes again",
                reason=f"{type(error).__name__}: {error}",
            )
            return
        told = {"delivery": str(delivery.id), "store": delivery.store, "attempt": delivery.attempt}
        if verdict.state == "DELIVERED":
            log.info("webhook delivered", status=outcome.status, **told)
        else:
            reason = outcome.error or f"answered {outcome.status}"
            log.warning(
                "webhook not delivered",
                state=verdict.state,
                reason=reason,
                known=outcome.known,
                **told,
            )

    def _note_pace(self, store: str, seconds: float) -> None:
        self._slow.pop(store, None)
        if seconds > _SLOW_S:
            self._slow[store] = None
            if len(self._slow) > _SLOW_KNOWN:
                del self._slow[next(iter(self._slow))]

    async def _post(
        self, http: httpx.AsyncClient, delivery: Delivery, secrets: Sequence[str], at: int
    ) -> Outcome:
        try:
            where = rules.target(delivery.url, loopback=self._loopback)
        except ForbiddenTargetError as error:
            return Outcome(status=None, error=f"the URL {error}", known=error.known, final=True)
        try:
            async with asyncio.timeout(_DEADLINE_S):
                addresses = rules.pinned(
                    where, await self._looked_up(delivery, where), loopback=self._loopback
                )
                requests = [
                    _request(http, delivery, where, address, secrets, at) for address in addresses
                ]
                status = await _first_answer(http, requests)
        except ForbiddenTargetError as error:
            return Outcome(status=None, error=f"the URL {error}", known=error.known)
        except httpx.InvalidURL as error:
            return Outcome(
                status=None, error=f"the URL is none: {error}"[:_LONGEST_REASON], final=True
            )
        except (httpx.HTTPError, OSError) as error:  # TimeoutError is an OSError
            return Outcome(status=None, error=f"{type(error).__name__}: {error}"[:_LONGEST_REASON])
        return Outcome(status=status)

    async def _looked_up(self, delivery: Delivery, where: rules.Target) -> Sequence[str]:
        """The host's addresses. What the resolver says is told to nobody outside: it knows our own network's names."""
        try:
            return await self._resolve(delivery.store, where.host, where.port)
        except TimeoutError as error:
            raise ForbiddenTargetError(
                "names a host that is not found in time", known=str(error)
            ) from None
        except (OSError, UnicodeError) as error:
            raise ForbiddenTargetError(
                rules.NOT_PUBLIC, known=f"{type(error).__name__}: {error}"
            ) from None


async def _first_answer(http: httpx.AsyncClient, requests: Sequence[httpx.Request]) -> int:
    """The status that the first server that can be connected to answers: the others have heard nothing."""
    *others, last = requests
    for request in others:
        with suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await _answer(http, request)
    return await _answer(http, last)


async def _answer(http: httpx.AsyncClient, request: httpx.Request) -> int:
    answer = await http.send(request, stream=True)
    await answer.aclose()
    return answer.status_code


def _request(
    http: httpx.AsyncClient,
    delivery: Delivery,
    where: rules.Target,
    address: str,
    secrets: Sequence[str],
    at: int,
) -> httpx.Request:
    """To the address that was judged, in the name of the host: for its certificate, and for its server."""
    content, message = delivery.payload.encode(), rules.message_id(delivery.id)
    url = httpx.URL(delivery.url)
    return http.build_request(
        "POST",
        url.copy_with(host=address),
        content=content,
        extensions={"sni_hostname": where.host},
        headers={
            "Host": url.netloc.decode(),
            "Content-Type": "application/json",
            "webhook-id": message,
            "webhook-timestamp": str(at),
            "webhook-signature": rules.sign(secrets, message, at, content),
        },
    )
