"""tenacity's random exponential backoff around an SDK without retries: what OpenAI's guide shows first."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from bench.account.audit import Limits
from bench.peers import sdk
from bench.peers.calls import Ask


@asynccontextmanager
async def caller(url: str, limits: Limits) -> AsyncIterator[Ask]:
    backoff = retry(
        wait=wait_random_exponential(min=1, max=60),
        stop=stop_after_attempt(6),
        reraise=True,
        retry=retry_if_exception_type(openai.RateLimitError),
    )
    async with sdk.caller(url, limits, max_retries=0) as ask:
        yield backoff(ask)
