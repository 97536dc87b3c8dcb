"""Peer: the algorithm of the OpenAI cookbook's parallel loop, reimplemented.

Capacities of requests and tokens start full and refill up to the limit. A call starts when both
suffice, one at a time. After a rate limit error all calls pause for 15 s. A call is tried five
times.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import openai

from bench.account.decisions import AccountLimits
from bench.peers import sdk
from bench.peers.calls import ModelCall, SendCall

_PAUSE_S = 15.0
_ATTEMPTS = 5
_CHECK_EVERY_S = 0.001


class CookbookCapacity:
    """The requests and tokens available now. `clock` returns seconds."""

    def __init__(self, limits: AccountLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._requests, self._tokens = float(limits.rpm), float(limits.tpm)
        self._at = clock()
        self._paused_until = self._at

    def take(self, tokens: int) -> bool:
        """Take a request and its tokens if both are available."""
        now = self._clock()
        minutes, self._at = (now - self._at) / 60, now
        self._requests = min(self._requests + self._limits.rpm * minutes, self._limits.rpm)
        self._tokens = min(self._tokens + self._limits.tpm * minutes, self._limits.tpm)
        if now < self._paused_until or self._requests < 1 or self._tokens < tokens:
            return False
        self._requests -= 1
        self._tokens -= tokens
        return True

    def pause(self) -> None:
        self._paused_until = self._clock() + _PAUSE_S


@asynccontextmanager
async def open_peer(url: str, limits: AccountLimits) -> AsyncIterator[SendCall]:
    capacity = CookbookCapacity(limits, time.monotonic)
    turn = asyncio.Lock()
    async with sdk.open_peer(url, limits, max_retries=0) as call_sdk:

        async def send_call(call: ModelCall) -> object:
            for _ in range(_ATTEMPTS - 1):
                try:
                    return await call_in_turn(call)
                except openai.RateLimitError:
                    capacity.pause()
            return await call_in_turn(call)

        async def call_in_turn(call: ModelCall) -> object:
            async with turn:
                while not capacity.take(call.tokens):
                    await asyncio.sleep(_CHECK_EVERY_S)
            return await call_sdk(call)

        yield send_call
