"""How long after its POST does an idle system call the provider, compared with a direct call?

Ingest, scheduler and one worker run as processes with a real broker and database. Each POST is sent
after the previous job has ended. The stand-in records the arrival of each job's first call. Between
two POSTs, the same SDK makes a direct call with a similar prompt. The rate limits are so high that
no call waits for them.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import quantiles
from typing import cast
from uuid import uuid4

import httpx
import psutil
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextConfigParam

from bench.account.decisions import AMPLE_LIMITS
from bench.account.fleet import count_ended_jobs, start_fleet
from bench.account.steady_provider import SteadyProvider, start_steady_provider
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from sandbox.servers.postgres import open_connection
from sandbox.system.home import free_port
from services.generator.blog import prompts
from services.generator.blog.article import Outline
from services.generator.providers.openai.requests import build_text_format
from shared.domain.api_keys import create_key
from shared.domain.errors import Unavailable
from shared.domain.job import SourceType
from shared.domain.messages import BlogRequested

_PAIRS = 200
_WARM_UP = 10
_LATENCY_S = 0.02
_SPACING_S = (0.2, 0.4)
"""Random, so that calls do not align with the services' periodic work."""
_SETTLE_S = 3.0
_MAX_OVERHEAD_S = {50: 0.030, 99: 0.150}
_TITLE = "How to brew green tea at home"


def run() -> Result:
    return asyncio.run(_run())


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTimes:
    """Measured latencies in seconds."""

    posted: Sequence[float]
    """From a POST to the first byte at the provider."""
    answered: Sequence[float]
    """From a POST to its 201."""
    direct: Sequence[float]
    """From a direct call to its first byte at the provider."""
    busy: float
    """The processor use of the machine during the run, 0 to 1."""


async def _run() -> Result:
    async with AsyncExitStack() as stack:
        bootstrap, dsn = (
            await stack.enter_async_context(running_kafka()),
            await stack.enter_async_context(running_postgres()),
        )
        provider = await stack.enter_async_context(start_steady_provider(latency_s=_LATENCY_S))
        port = str(free_port())
        fleet = await stack.enter_async_context(
            start_fleet(
                dsn=dsn,
                bootstrap=bootstrap,
                prefix="latency.",
                url=provider.url,
                limits=AMPLE_LIMITS,
                backlog=0,
                PORT=port,
            )
        )
        await asyncio.gather(fleet.start("ingest"), fleet.start("generator"))
        await asyncio.sleep(_SETTLE_S)
        times = await _measure(f"http://127.0.0.1:{port}", await _key(dsn), provider)
        fleet.check_processes()
        done, failed = await count_ended_jobs(dsn)
    if failed or done < _WARM_UP + _PAIRS:
        raise Unavailable(
            f"{done} of {_WARM_UP + _PAIRS} blogs done, {failed} failed:"
            " the system was not idle, the measurement is not valid"
        )
    return _result(times)


async def _key(dsn: str) -> str:
    async with open_connection(dsn) as connection:
        return await create_key(connection, "bench-store")


async def _measure(ingest: str, key: str, provider: SteadyProvider) -> LatencyTimes:
    """Send POSTs and direct calls in turn. The warm-up, which opens connections, does not count."""
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
            direct.append(await _call_directly(openai))
            await asyncio.sleep(chance.uniform(*_SPACING_S))
    busy = psutil.cpu_percent() / 100
    arrived = provider.read_arrivals()
    return LatencyTimes(
        posted=[arrived[job] - at for job, at, _ in posts[_WARM_UP:]],
        answered=[answered - at for _, at, answered in posts[_WARM_UP:]],
        direct=[arrived[job] - at for job, at in direct[_WARM_UP:]],
        busy=busy,
    )


async def _post(client: httpx.AsyncClient, number: int) -> tuple[str, float, float]:
    """Return the job, the time of the POST, and the time of the answer."""
    body = {"sourceType": "keyword", "sourceId": f"keyword-{number}", "title": _TITLE, "images": 0}
    at = time.monotonic()
    answer = await client.post("/api/blog-generation", json=body)
    answered = time.monotonic()
    answer.raise_for_status()
    return answer.json()["id"], at, answered


async def _call_directly(openai: AsyncOpenAI) -> tuple[str, float]:
    """Make the first call of such a job; return its job id and the time of the call."""
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
        input=prompts.build_outline_input(request),
        max_output_tokens=prompts.OUTLINE_MAX_TOKENS,
        extra_headers={"X-Blogstream-Job": job},
        text=cast(ResponseTextConfigParam, build_text_format(Outline)),
    )
    return job, at


def _result(times: LatencyTimes) -> Result:
    rows = [
        ["POST to the provider's first byte", *_cells(times.posted)],
        ["of that, until the 201", *_cells(times.answered)],
        ["a direct call to its first byte", *_cells(times.direct)],
    ]
    overhead = {
        percent: _percentile(times.posted, percent) - _percentile(times.direct, percent)
        for percent in _MAX_OVERHEAD_S
    }
    rows.append(
        ["overhead", *(f"{overhead[percent] * 1000:.1f} ms" for percent in _MAX_OVERHEAD_S)]
    )
    return Result(
        question="How long after its POST does an idle system call the provider?"
        f" ({_PAIRS} POSTs and direct calls in turn, {times.busy:.0%} of the machine in use)",
        header=["", *(f"p{percent}" for percent in _MAX_OVERHEAD_S)],
        rows=rows,
        ratios=[
            Ratio(
                name=f"POST to first byte over a direct call, p{percent}, ms",
                measured=overhead[percent] * 1000,
                target=f"≤ {most * 1000:.0f}",
                met=overhead[percent] <= most,
            )
            for percent, most in _MAX_OVERHEAD_S.items()
        ],
    )


def _cells(seconds: Sequence[float]) -> list[str]:
    return [f"{_percentile(seconds, percent) * 1000:.1f} ms" for percent in _MAX_OVERHEAD_S]


def _percentile(seconds: Sequence[float], percent: int) -> float:
    return quantiles(seconds, n=100, method="inclusive")[percent - 1]
