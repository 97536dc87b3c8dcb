"""openai's SDK alone: its own two retries, after what Retry-After says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from openai import DEFAULT_MAX_RETRIES, AsyncOpenAI

from bench.account.audit import Limits
from bench.peers.calls import MODEL, Ask, Question


@asynccontextmanager
async def caller(
    url: str, limits: Limits, *, max_retries: int = DEFAULT_MAX_RETRIES
) -> AsyncIterator[Ask]:
    """It knows no limits: it learns them from 429s."""
    async with AsyncOpenAI(api_key="sk-bench", base_url=url, max_retries=max_retries) as client:

        async def ask(question: Question) -> object:
            return await client.responses.create(model=MODEL, **question.arguments)

        yield ask
