"""Does `./blogstream simulate` foretell what the real system does?

Three workloads run on the real system: ingest, scheduler and workers as processes, with a real
broker and database, and the stand-ins as providers. Then the simulator gets the recorded arrivals,
the same limits and the same latencies. Its figures are the medians of several seeds, because the
stand-ins draw their latencies at random too.

BENCH_CASES="load" runs the cases whose names contain one of these texts; then the result is shown
and not recorded.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import httpx

from bench.account.decisions import AccountLimits
from bench.account.fleet import count_ended_jobs, start_fleet
from bench.limits import make_case_filter
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres, running_process
from sandbox.limits import LimitSettings
from sandbox.servers.postgres import open_connection
from sandbox.simulation.arrivals import Arrival, StoreClass, Workload
from sandbox.simulation.call_sizes import measure_text_sizes
from sandbox.simulation.settings import IMAGE, READS, TEXT, Latencies, WorldSettings
from sandbox.simulation.world import SimulatedWorld
from sandbox.system.home import free_port
from shared.domain.api_keys import create_key
from shared.domain.errors import Unavailable

_SETTLE_S = 6.0
"""The workers own their partitions, and their buckets are full."""
_ENDS_WITHIN_S = 300.0
_SEEDS = range(1, 8)
_TOLERANCE = 0.05
_SHORTEST_S = 1.0
"""A wait below it is a delay of single messages, of which percentages say little."""
_IMAGE_RPM = 3_000
_TITLE = "How to brew green tea at home"


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityCase:
    """One workload. `posts` are the seconds after the first one, and the stores."""

    name: str
    posts: Sequence[tuple[float, str]]
    limits: AccountLimits
    workers: int
    slots: int
    text_s: float = 0.8
    image_s: float = 1.5


_CASES = (
    FidelityCase(
        name="load: 100 posts of one store, 0.1 s apart",
        posts=[(number / 10, "store") for number in range(100)],
        limits=AccountLimits(rpm=120, tpm=10_000_000),
        workers=1,
        slots=50,
    ),
    FidelityCase(
        name="flood: 200 posts of one store, then 5 each of nine, two workers",
        posts=[
            *((0.0, "flood") for _ in range(200)),
            *((2.0, f"light-{store}") for store in range(9) for _ in range(5)),
        ],
        limits=AccountLimits(rpm=400, tpm=10_000_000),
        workers=2,
        slots=50,
    ),
    FidelityCase(
        name="slots: 160 posts of four stores, two workers of 8 slots",
        posts=[(0.0, f"store-{number % 4}") for number in range(160)],
        limits=AccountLimits(rpm=6_000, tpm=100_000_000),
        workers=2,
        slots=8,
        text_s=1.5,
        image_s=1.0,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredJob:
    """The times of one job, in seconds since the first request."""

    store: str
    requested_at: float
    started_at: float
    ended_at: float


Figures = dict[str, float]


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    is_chosen = make_case_filter(os.environ.get("BENCH_CASES", ""))
    cases = [case for case in _CASES if is_chosen(case.name)]
    rows, ratios = list[list[str]](), list[Ratio]()
    async with running_kafka() as bootstrap, running_postgres() as dsn:
        for number, case in enumerate(cases):
            print(f"  {case.name} …", flush=True)
            jobs = await _run_really(case, f"fidelity{number}.", bootstrap, dsn)
            real, simulated = _measure(jobs), _simulate(case, jobs)
            for name, value in real.items():
                print(f"    {name}: {value:.2f} s, simulated {simulated[name]:.2f} s", flush=True)
                rows.append(_build_row(case.name, name, value, simulated[name]))
                if value >= _SHORTEST_S:
                    ratios.append(_build_ratio(case.name, name, simulated[name] / value))
    return Result(
        question="Does the simulator foretell makespan and waits of a real run? (each figure of the"
        f" real system once, of the simulator the median of {len(_SEEDS)} seeds)",
        header=["workload", "", "real", "simulated", "simulated ÷ real"],
        rows=rows,
        ratios=ratios,
        recorded=len(cases) == len(_CASES),
    )


def _build_row(case: str, name: str, real: float, simulated: float) -> list[str]:
    return [case, name, f"{real:.2f} s", f"{simulated:.2f} s", f"{simulated / real:.3f}"]


def _build_ratio(case: str, name: str, ratio: float) -> Ratio:
    return Ratio(
        name=f"{case.partition(':')[0]}, {name}",
        measured=ratio,
        target=f"1 ± {_TOLERANCE:g}",
        met=abs(ratio - 1) <= _TOLERANCE,
    )


async def _run_really(
    case: FidelityCase, prefix: str, bootstrap: str, dsn: str
) -> list[MeasuredJob]:
    port = str(free_port())
    async with AsyncExitStack() as stack:
        texts, images = await stack.enter_async_context(_start_standins(case))
        fleet = await stack.enter_async_context(
            start_fleet(
                dsn=dsn,
                bootstrap=bootstrap,
                prefix=prefix,
                url=f"{texts}/v1",
                limits=case.limits,
                backlog=0,
                PORT=port,
                CONCURRENT_BLOGS=str(case.slots),
                REPLICATE_BASE_URL=images,
                REPLICATE_RPM=str(_IMAGE_RPM),
            )
        )
        await asyncio.gather(
            fleet.start("ingest"), *(fleet.start("generator") for _ in range(case.workers))
        )
        await asyncio.sleep(_SETTLE_S)
        await _send_posts(case, f"http://127.0.0.1:{port}", dsn)
        give_up = time.monotonic() + _ENDS_WITHIN_S
        while (ended := await count_ended_jobs(dsn)) != (len(case.posts), 0):
            fleet.check_processes()
            if ended[1] or time.monotonic() > give_up:
                raise Unavailable(f"{ended[0]} of {len(case.posts)} posts done, {ended[1]} failed")
            await asyncio.sleep(0.2)
    return await _read_jobs(dsn)


@asynccontextmanager
async def _start_standins(case: FidelityCase) -> AsyncIterator[tuple[str, str]]:
    """Run both stand-ins with the limits of the case; yield their addresses."""
    ports = {"openai": free_port(), "replicate": free_port()}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    variables = {
        "STANDIN_OPENAI_PORT": str(ports["openai"]),
        "STANDIN_REPLICATE_PORT": str(ports["replicate"]),
        "STANDIN_OPENAI_LATENCY_MS": f"{case.text_s * 1000:g}",
        "STANDIN_REPLICATE_LATENCY_MS": f"{case.image_s * 1000:g}",
        "OPENAI_RPM": str(case.limits.rpm),
        "OPENAI_TPM": str(case.limits.tpm),
        "REPLICATE_RPM": str(_IMAGE_RPM),
    }
    async with running_process(
        "sandbox.providers", ready_at=f"{urls['openai']}/standin/bill", variables=variables
    ):
        yield urls["openai"], urls["replicate"]


async def _send_posts(case: FidelityCase, ingest: str, dsn: str) -> None:
    """Send the requests at their times, as `./blogstream load` does, each with its store's key."""
    stores = dict.fromkeys(store for _, store in case.posts)
    async with open_connection(dsn) as connection:
        keys = {store: await create_key(connection, store) for store in stores}
    async with httpx.AsyncClient(base_url=ingest, timeout=30, trust_env=False) as client:
        began, sending = time.monotonic(), list[asyncio.Task[httpx.Response]]()
        for number, (at, store) in enumerate(case.posts):
            await asyncio.sleep(max(began + at - time.monotonic(), 0.0))
            body = {"sourceType": "keyword", "sourceId": f"tea-{number}", "title": _TITLE}
            headers = {"Authorization": f"Bearer {keys[store]}"}
            post = client.post("/api/blog-generation", json=body, headers=headers)
            sending.append(asyncio.create_task(post))
        for answer in await asyncio.gather(*sending):
            answer.raise_for_status()


async def _read_jobs(dsn: str) -> list[MeasuredJob]:
    async with open_connection(dsn) as connection:
        rows: list[Any] = await connection.fetch(
            "SELECT instance_id AS store, created_at, started_at, finished_at FROM blog_generations"
            " ORDER BY created_at"
        )
    first = rows[0]["created_at"]
    return [
        MeasuredJob(
            store=row["store"],
            requested_at=(row["created_at"] - first).total_seconds(),
            started_at=(row["started_at"] - first).total_seconds(),
            ended_at=(row["finished_at"] - first).total_seconds(),
        )
        for row in rows
    ]


def _simulate(case: FidelityCase, jobs: Sequence[MeasuredJob]) -> Figures:
    """Simulate the recorded arrivals. Returns the median of each figure."""
    figures = [_measure(_simulate_once(case, jobs, seed)) for seed in _SEEDS]
    return {name: median(one[name] for one in figures) for name in figures[0]}


def _simulate_once(case: FidelityCase, jobs: Sequence[MeasuredJob], seed: int) -> list[MeasuredJob]:
    settings = WorldSettings(
        workers=case.workers,
        slots=case.slots,
        limits={
            TEXT: {"requests": float(case.limits.rpm), "tokens": float(case.limits.tpm)},
            IMAGE: {"requests": float(_IMAGE_RPM)},
            READS: {"reads": 3_000.0},
        },
        text_sizes=measure_text_sizes(LimitSettings().text_account()),
        latencies=Latencies(outline_s=case.text_s, article_s=case.text_s, image_s=case.image_s),
        seed=seed,
    )
    workload = Workload(
        arrivals=[Arrival(job.requested_at + _SETTLE_S, job.store, 0) for job in jobs],
        classes=[StoreClass(name="all", stores=1)],
        posts=len(jobs),
        stores=1,
    )
    world = SimulatedWorld(settings, workload, keep_jobs=True)
    world.run()
    return [
        MeasuredJob(
            store=job.store,
            requested_at=job.requested_at - _SETTLE_S,
            started_at=(job.started_at or 0.0) - _SETTLE_S,
            ended_at=(job.ended_at or 0.0) - _SETTLE_S,
        )
        for job in world.jobs or ()
    ]


def _measure(jobs: Sequence[MeasuredJob]) -> Figures:
    waits = sorted(job.started_at - job.requested_at for job in jobs)
    totals = sorted(job.ended_at - job.requested_at for job in jobs)
    return {
        "makespan": max(job.ended_at for job in jobs),
        "wait p50": _percentile(waits, 50),
        "wait p95": _percentile(waits, 95),
        "time to a post p50": _percentile(totals, 50),
        "time to a post p95": _percentile(totals, 95),
    }


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[max(-(-percent * len(ordered) // 100), 1) - 1]
