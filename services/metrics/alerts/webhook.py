"""Sends alerts to a chat in Slack's format: one POST of `{"text": …}` for each, in order.

Runs in its own task, so that alerts are evaluated without waiting for the chat's server. The URL is
a secret: anyone who has it can post to the chat.
"""

import asyncio

import httpx

from shared.observability.log import get_logger

log = get_logger(__name__)

_QUEUE_SIZE = 100
_TRIES = 6
_FIRST_PAUSE_S = 0.5
_TIMEOUT_S = 5.0


class AlertWebhook:
    def __init__(self, url: str) -> None:
        self._url = url
        self._queue: asyncio.Queue[str] = asyncio.Queue(_QUEUE_SIZE)

    def enqueue(self, text: str) -> None:
        """Queue a message without waiting.

        When the queue is full, the message is dropped and logged.
        """
        try:
            self._queue.put_nowait(text)
        except asyncio.QueueFull:
            log.error("alert webhook queue full, message dropped", text=text)

    async def deliver_until_cancelled(self) -> None:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
            while True:
                await self._deliver(client, await self._queue.get())

    async def _deliver(self, client: httpx.AsyncClient, text: str) -> None:
        """Try up to six times with growing pauses, about 15 seconds in all, then give up."""
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
        log.error("alert webhook delivery failed, given up", reason=reason, text=text)
