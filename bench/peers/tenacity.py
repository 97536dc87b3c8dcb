"""Peer: tenacity's random exponential backoff around the SDK, as in OpenAI's guide."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from bench.account.decisions import AccountLimits
from bench.peers import sdk
from bench.peers.calls import SendCall


@asynccontextmanager
async def open_peer(url: str, limits: AccountLimits) -> AsyncIterator[SendCall]:
    backoff = retry(
        wait=wait_random_exponential(min=1, max=60),
        stop=stop_after_attempt(6),
        reraise=True,
        retry=retry_if_exception_type(openai.RateLimitError),
    )
    async with sdk.open_peer(url, limits, max_retries=0) as send_call:
        yield backoff(send_call)
