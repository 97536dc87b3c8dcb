"""Tells a chat of alerts: one POST of `{"text": …}` each, in order, as Slack and those like it take it.

In a task of its own, so that judging never waits for somebody else's server. The address is a secret: who has it may
speak in the chat.
"""

import asyncio

import httpx

from shared.observability.log import get_logger

log = get_logger(__name__)

_QUEUED = 100
_TRIES = 6
_FIRST_PAUSE_S = 0.5
_TIMEOUT_S = 5.0


class AlertWebhook:
    def __init__(self, url: str) -> None:
        self._url = url
        self._queue: asyncio.Queue[str] = asyncio.Queue(_QUEUED)

    def enqueue(self, text: str) -> None:
        """Never waits. When far too many wait already, this one is dropped: the log has it."""
        try:
            self._queue.put_nowait(text)
        except asyncio.QueueFull:
            log.error("too many alerts wait for the webhook: one is dropped", text=text)

    async def deliver_until_cancelled(self) -> None:
        """Until cancelled."""
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
            while True:
                await self._deliver(client, await self._queue.get())

    async def _deliver(self, client: httpx.AsyncClient, text: str) -> None:
        """A few tries, each after a longer pause: about a quarter of a minute in all, then it is given up."""
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                status = (await client.post(self._url, json={"text": text})).status_code
            except httpx.HTTPError as error:
                reason = type(error).__name__
                continue
            if status < 300:
                return
            reason = f"answered {status}"
            if status < 500 and status not in (408, 429):
                break
        log.error("the webhook did not take an alert: given up", reason=reason, text=text)
