"""aiolimiter: a leaky bucket of requests, then one of tokens, before an SDK with its own retries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiolimiter import AsyncLimiter

from bench.account.audit import Limits
from bench.peers import sdk
from bench.peers.calls import Ask, Question


@asynccontextmanager
async def caller(url: str, limits: Limits) -> AsyncIterator[Ask]:
    requests, tokens = AsyncLimiter(limits.rpm, 60), AsyncLimiter(limits.tpm, 60)
    async with sdk.caller(url, limits) as ask_now:

        async def ask(question: Question) -> object:
            await requests.acquire()
            await tokens.acquire(question.tokens)
            return await ask_now(question)

        yield ask
