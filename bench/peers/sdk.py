"""Peer: the openai SDK alone, with its own two retries after `Retry-After`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openai import DEFAULT_MAX_RETRIES, AsyncOpenAI

from bench.account.decisions import AccountLimits
from bench.peers.calls import MODEL, ModelCall, SendCall


@asynccontextmanager
async def open_peer(
    url: str, limits: AccountLimits, *, max_retries: int = DEFAULT_MAX_RETRIES
) -> AsyncIterator[SendCall]:
    """Open the SDK, which learns the limits from 429 answers."""
    async with AsyncOpenAI(api_key="sk-bench", base_url=url, max_retries=max_retries) as client:

        async def send_call(call: ModelCall) -> object:
            return await client.responses.create(model=MODEL, **call.arguments)

        yield send_call
