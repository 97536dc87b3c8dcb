"""Peer: aiolimiter, with leaky buckets of requests and tokens before the SDK with its retries."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiolimiter import AsyncLimiter

from bench.account.decisions import AccountLimits
from bench.peers import sdk
from bench.peers.calls import ModelCall, SendCall


@asynccontextmanager
async def open_peer(url: str, limits: AccountLimits) -> AsyncIterator[SendCall]:
    requests, tokens = AsyncLimiter(limits.rpm, 60), AsyncLimiter(limits.tpm, 60)
    async with sdk.open_peer(url, limits) as call_sdk:

        async def send_call(call: ModelCall) -> object:
            await requests.acquire()
            await tokens.acquire(call.tokens)
            return await call_sdk(call)

        yield send_call
