"""The algorithm of the OpenAI cookbook's parallel loop, written anew.

Capacities of requests and tokens, full at first, refill with time up to the limit; a call goes when both suffice, one
at a time. After a rate limit error all pause for 15 s; a call is tried five times.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import openai

from bench.account.audit import Limits
from bench.peers import sdk
from bench.peers.calls import Ask, Question

_PAUSE_S = 15.0
_ATTEMPTS = 5
_LOOK_AGAIN_S = 0.001


class Capacity:
    """What may be asked now. `clock` gives seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._requests, self._tokens = float(limits.rpm), float(limits.tpm)
        self._at = clock()
        self._paused_until = self._at

    def take(self, tokens: int) -> bool:
        """Take a request and its tokens when both are there."""
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
async def caller(url: str, limits: Limits) -> AsyncIterator[Ask]:
    capacity = Capacity(limits, time.monotonic)
    turn = asyncio.Lock()
    async with sdk.caller(url, limits, max_retries=0) as ask_once:

        async def ask(question: Question) -> object:
            for _ in range(_ATTEMPTS - 1):
                try:
                    return await ask_in_turn(question)
                except openai.RateLimitError:
                    capacity.pause()
            return await ask_in_turn(question)

        async def ask_in_turn(question: Question) -> object:
            async with turn:
                while not capacity.take(question.tokens):
                    await asyncio.sleep(_LOOK_AGAIN_S)
            return await ask_once(question)

        yield ask
