"""How long after its POST does an idle system call the provider? Beside it: the same call, made directly.

ingest, scheduler and one worker as processes, a real broker and database. Each POST waits until the job before it is
long over. The stand-in notes when the first call of each job arrives; direct calls, one between each two POSTs, are
made by the same SDK with a prompt like the job's. The limits are ample, so that nothing waits for them.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import quantiles
from uuid import uuid4

import httpx
import psutil
from openai import AsyncOpenAI

from bench.account.audit import AMPLE
from bench.account.ours import a_fleet, ended
from bench.account.provider import Provider, a_provider
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from sandbox.servers.postgres import open_connection
from sandbox.system.home import free_port
from services.generator.blog import prompts
from services.generator.blog.article import Outline
from services.generator.providers.openai import text_format
from shared.domain.api_keys import create_key
from shared.domain.errors import Unavailable
from shared.domain.job import SourceType
from shared.domain.messages import BlogRequested

_PAIRS = 200
_WARM_UP = 10
_LATENCY_S = 0.02
_SPACING_S = (0.2, 0.4)
"""A range, or calls would keep step with what the services do once a second."""
_SETTLE_S = 3.0
_MOST_S = {50: 0.030, 99: 0.150}
_TITLE = "How to brew green tea at home"


def run() -> Result:
    return asyncio.run(_run())


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTimes:
    """Seconds from the send to the first byte at the provider; and to the 201, of those that are POSTs."""

    posted: Sequence[float]
    answered: Sequence[float]
    direct: Sequence[float]
    busy: float
    """What of the machine was used meanwhile, 0 to 1."""


async def _run() -> Result:
    async with AsyncExitStack() as stack:
        bootstrap, dsn = (
            await stack.enter_async_context(running_kafka()),
            await stack.enter_async_context(running_postgres()),
        )
        provider = await stack.enter_async_context(a_provider(latency_s=_LATENCY_S))
        port = str(free_port())
        fleet = await stack.enter_async_context(
            a_fleet(
                dsn=dsn,
                bootstrap=bootstrap,
                prefix="latency.",
                url=provider.url,
                limits=AMPLE,
                backlog=0,
                PORT=port,
            )
        )
        await asyncio.gather(fleet.start("ingest"), fleet.start("generator"))
        await asyncio.sleep(_SETTLE_S)
        times = await _measure(f"http://127.0.0.1:{port}", await _key(dsn), provider)
        fleet.check()
        done, failed = await ended(dsn)
    if failed or done < _WARM_UP + _PAIRS:
        raise Unavailable(
            f"{done} of {_WARM_UP + _PAIRS} blogs done, {failed} failed: the system was not idle"
        )
    return _result(times)


async def _key(dsn: str) -> str:
    async with open_connection(dsn) as connection:
        return await create_key(connection, "bench-store")


async def _measure(ingest: str, key: str, provider: Provider) -> LatencyTimes:
    """POSTs and direct calls in turn. The first ones open connections and fill caches, and do not count."""
    chance = random.Random(1)  # noqa: S311 - the same spacing in every run
    posts, direct = list[tuple[str, float, float]](), list[tuple[str, float]]()
    async with (
        httpx.AsyncClient(
            base_url=ingest, headers={"Authorization": f"Bearer {key}"}, trust_env=False
        ) as client,
        AsyncOpenAI(api_key="sk-bench", base_url=provider.url, max_retries=0) as openai,
    ):
        for number in range(_WARM_UP + _PAIRS):
            if number == _WARM_UP:
                psutil.cpu_percent()
            posts.append(await _post(client, number))
            await asyncio.sleep(chance.uniform(*_SPACING_S))
            direct.append(await _call(openai))
            await asyncio.sleep(chance.uniform(*_SPACING_S))
    busy = psutil.cpu_percent() / 100
    arrived = provider.arrivals()
    return LatencyTimes(
        posted=[arrived[job] - at for job, at, _ in posts[_WARM_UP:]],
        answered=[answered - at for _, at, answered in posts[_WARM_UP:]],
        direct=[arrived[job] - at for job, at in direct[_WARM_UP:]],
        busy=busy,
    )


async def _post(client: httpx.AsyncClient, number: int) -> tuple[str, float, float]:
    """The job, when it was sent, and when it was answered."""
    body = {"sourceType": "keyword", "sourceId": f"keyword-{number}", "title": _TITLE, "images": 0}
    at = time.monotonic()
    answer = await client.post("/api/blog-generation", json=body)
    answered = time.monotonic()
    answer.raise_for_status()
    return answer.json()["id"], at, answered


async def _call(openai: AsyncOpenAI) -> tuple[str, float]:
    """The first call of such a job, made by itself: its name, and when it was sent."""
    job = str(uuid4())
    request = BlogRequested(
        id=uuid4(),
        store="bench-store",
        source_type=SourceType.KEYWORD,
        source_id="keyword",
        title=_TITLE,
        created_at=datetime.now(UTC),
    )
    at = time.monotonic()
    await openai.responses.create(
        model="gpt-4o-mini",
        instructions=prompts.OUTLINE_INSTRUCTIONS,
        input=prompts.outline_input(request),
        max_output_tokens=prompts.OUTLINE_MAX_TOKENS,
        extra_headers={"X-Blogstream-Job": job},
        text=text_format(Outline),
    )
    return job, at


def _result(times: LatencyTimes) -> Result:
    rows = [
        ["POST to the provider's first byte", *_cells(times.posted)],
        ["of that, until the 201", *_cells(times.answered)],
        ["a direct call to its first byte", *_cells(times.direct)],
    ]
    over = {
        percent: _percentile(times.posted, percent) - _percentile(times.direct, percent)
        for percent in _MOST_S
    }
    rows.append(
        ["what ours takes longer", *(f"{over[percent] * 1000:.1f} ms" for percent in _MOST_S)]
    )
    return Result(
        question=f"How long after its POST does an idle system call the provider? ({_PAIRS} POSTs and direct calls in"
        f" turn, {times.busy:.0%} of the machine in use)",
        header=["", *(f"p{percent}" for percent in _MOST_S)],
        rows=rows,
        ratios=[
            Ratio(
                what=f"POST to first byte over a direct call, p{percent}, ms",
                seen=over[percent] * 1000,
                bar=f"≤ {most * 1000:.0f}",
                held=over[percent] <= most,
            )
            for percent, most in _MOST_S.items()
        ],
    )


def _cells(seconds: Sequence[float]) -> list[str]:
    return [f"{_percentile(seconds, percent) * 1000:.1f} ms" for percent in _MOST_S]


def _percentile(seconds: Sequence[float], percent: int) -> float:
    return quantiles(seconds, n=100, method="inclusive")[percent - 1]
