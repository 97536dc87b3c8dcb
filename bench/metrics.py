"""How many events a second does metrics count, compared with a bare loop that fills a dict?

The loop reads from Kafka as fast as aiokafka allows, decodes the JSON and adds one to a number per
store. It validates nothing, survives no crash and does not detect repeats. Metrics does all that,
as the process that operators run, with its table on disk and the changelog on the broker. Then its
endpoints are called while events arrive, with as many stores as a large system has, and its memory
is measured with ten times as many.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from uuid import UUID

import httpx
import orjson
import psutil

from bench.result import Ratio, Result
from bench.servers import running_kafka
from sandbox.system.environment import process_environment
from sandbox.system.home import ROOT, free_port
from shared.domain.job import Status
from shared.domain.messages import (
    EventKind,
    JobEvent,
    LimiterReport,
    SchedulerReport,
    StoreQueueReport,
    Usage,
    WorkerReport,
)
from shared.kafka import clients
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import GENERATION, RESULTS, WORKERS
from shared.runtime.settings import KafkaSettings

_STORES, _MANY_STORES = 10_000, 100_000
_JOBS = 20_000
_EVENTS_A_JOB = 6
_IN_FLIGHT = 500
_LOAD_S = 15.0
_EVENTS_A_SECOND = 1_000
"""The load while the endpoints are called: the events of about eighty workers."""
_TIMEOUT_S = 240.0
_BATCH_EVENTS = 2_000
_PATHS = (
    "/api/overview",
    "/api/stores",
    "/api/workers",
    "/api/rate-limiter/stats",
    "/api/jobs",
    "/metrics",
    "/metrics?format=prometheus",
)


@dataclass(frozen=True, slots=True)
class MetricsMeasurement:
    events_per_s: float
    events_per_cpu_s: float
    """Events per second of CPU time, which does not depend on other processes on the machine."""
    p99: dict[str, float]
    """Milliseconds by path."""
    memory_mib: tuple[float, float]
    """MiB with `_STORES` and with `_MANY_STORES` stores."""


def run() -> Result:
    return asyncio.run(_measure())


async def _measure() -> Result:
    async with running_kafka() as bootstrap:
        settings = KafkaSettings(kafka_bootstrap_servers=bootstrap)
        await clients.ensure_topics(settings)
        async with Publisher(settings, source="bench") as publisher:
            await _publish(publisher, _interleaved(range(_JOBS)))
            bare = await _measure_bare_loop(settings)
            measured = await _measure_metrics(settings, publisher)
    part, worst = measured.events_per_s / bare, max(measured.p99.values())
    return Result(
        question=f"How many events a second does metrics count? ({_JOBS * _EVENTS_A_JOB:,} events,"
        f" {_STORES:,} stores)",
        header=["", ""],
        rows=[
            ["a bare loop with a dict", f"{bare:,.0f} events/s"],
            ["metrics", f"{measured.events_per_s:,.0f} events/s"],
            ["metrics, for each second of one core", f"{measured.events_per_cpu_s:,.0f} events"],
            *([f"GET {path}, p99", f"{value:.1f} ms"] for path, value in measured.p99.items()),
            [f"memory with {_STORES:,} stores", f"{measured.memory_mib[0]:,.0f} MiB"],
            [f"memory with {_MANY_STORES:,} stores", f"{measured.memory_mib[1]:,.0f} MiB"],
        ],
        ratios=[
            Ratio(name="metrics ÷ a bare loop", measured=part, target="stated, none set", met=True),
            Ratio(
                name="events a second",
                measured=measured.events_per_s,
                target="≥ 5,000",
                met=measured.events_per_s >= 5_000,
            ),
            Ratio(
                name=f"slowest endpoint's p99 in ms, {_EVENTS_A_SECOND:,} events/s coming in",
                measured=worst,
                target="≤ 50",
                met=worst <= 50,
            ),
        ],
    )


def _job_events(number: int, stores: int = _STORES) -> Iterator[JobEvent]:
    """Yield all events of a successful job."""
    store, requested_at = f"store-{number % stores}", datetime.now(UTC) - timedelta(seconds=100)

    def event(kind: EventKind, after_s: float, status: Status, step: str | None = None) -> JobEvent:
        return JobEvent(
            job=UUID(int=number),
            store=store,
            kind=kind,
            status=status,
            attempt=int(after_s > 1),
            at=requested_at + timedelta(seconds=after_s),
            created_at=requested_at,
            step=step,
            worker="worker-1",
            started_at=requested_at + timedelta(seconds=3) if after_s >= 3 else None,
            usage=Usage(input_tokens=900, output_tokens=1_500, images=1, cost_nanousd=4_000_000)
            if kind is EventKind.ENDED
            else Usage(),
        )

    yield event(EventKind.ADMITTED, 0.1, Status.PENDING)
    yield event(EventKind.STARTED, 3, Status.PROCESSING)
    for after_s, step in ((20, "outline"), (60, "article"), (70, "image")):
        yield event(EventKind.STEP_DONE, after_s, Status.PROCESSING, step)
    yield event(EventKind.ENDED, 90, Status.DONE)


def _interleaved(numbers: range) -> list[JobEvent]:
    """Return the events of jobs with `_IN_FLIGHT` jobs in flight at a time."""
    blocks = (numbers[first : first + _IN_FLIGHT] for first in range(0, len(numbers), _IN_FLIGHT))
    return [
        event
        for block in blocks
        for moment in zip(*map(_job_events, block), strict=True)
        for event in moment
    ]


async def _publish(publisher: Publisher, events: list[JobEvent]) -> None:
    for first in range(0, len(events), _BATCH_EVENTS):
        batch = events[first : first + _BATCH_EVENTS]
        await publisher.publish_all(
            [OutgoingMessage(topic=RESULTS, key=event.store, message=event) for event in batch]
        )


async def _measure_bare_loop(settings: KafkaSettings) -> float:
    """Return the events per second of a loop that only reads and adds."""
    counts: dict[str, int] = {}
    left = _JOBS * _EVENTS_A_JOB
    async with clients.create_consumer(
        settings, clients.namespace(settings).topic(RESULTS), group_id="bare"
    ) as consumer:
        began = None
        while left:
            batches = await consumer.getmany(timeout_ms=500)
            began = began or time.perf_counter()
            for record in (record for records in batches.values() for record in records):
                event = orjson.loads(record.value)
                counts[event["store"]] = counts.get(event["store"], 0) + 1
                left -= 1
    assert began is not None
    return _JOBS * _EVENTS_A_JOB / (time.perf_counter() - began)


async def _measure_metrics(settings: KafkaSettings, publisher: Publisher) -> MetricsMeasurement:
    async with _start_metrics(settings) as (process, http):
        # Without reports, the startup gate stays closed for a while.
        reporting = asyncio.create_task(_publish_reports(publisher))
        try:
            rate, cpu_rate = await _measure_counting(process, http)
            loading = asyncio.create_task(_publish_load(publisher))
            try:
                p99 = await _measure_endpoints(http)
            finally:
                loading.cancel()
        finally:
            reporting.cancel()
        few = process.memory_info().rss / 2**20
        done = await _done_jobs(http)
        more = [
            event
            for number in range(10_000_000, 10_000_000 + _MANY_STORES)
            for event in list(_job_events(number, _MANY_STORES))[:: _EVENTS_A_JOB - 1]
        ]
        await _publish(publisher, more)
        await _until_done(http, done + _MANY_STORES)
        return MetricsMeasurement(rate, cpu_rate, p99, (few, process.memory_info().rss / 2**20))


@asynccontextmanager
async def _start_metrics(
    settings: KafkaSettings,
) -> AsyncIterator[tuple[psutil.Process, httpx.AsyncClient]]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="blogstream-bench-") as folder:
        variables = {
            "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            "METRICS_PORT": str(port),
            "METRICS_DIR": str(Path(folder) / "tables"),
            "PYTHONPATH": str(ROOT),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.metrics",
            env=process_environment(variables),
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False
            ) as http:
                yield psutil.Process(process.pid), http
        finally:
            process.terminate()
            await process.wait()


async def _done_jobs(http: httpx.AsyncClient) -> int:
    try:
        answer = await http.get("/api/overview")
        return int(answer.json()["jobs"]["DONE"]) if answer.is_success else 0
    except httpx.HTTPError:
        return 0


async def _until_done(http: httpx.AsyncClient, jobs: int) -> None:
    async with asyncio.timeout(_TIMEOUT_S):
        while await _done_jobs(http) < jobs:
            await asyncio.sleep(0.25)


async def _measure_counting(
    process: psutil.Process, http: httpx.AsyncClient
) -> tuple[float, float]:
    """Return events per second and per CPU second, from the first counted job to the last."""
    await _until_done(http, 1)
    first, began, before = await _done_jobs(http), time.perf_counter(), process.cpu_times()
    await _until_done(http, _JOBS)
    events, after = (_JOBS - first) * _EVENTS_A_JOB, process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return events / (time.perf_counter() - began), events / cpu_s


async def _publish_reports(publisher: Publisher) -> None:
    """Publish the reports of twelve workers and a scheduler once a second."""
    while True:
        now = datetime.now(UTC)
        outgoing = [
            OutgoingMessage(topic=WORKERS, key=f"worker-{n}", message=_worker_report(n, now))
            for n in range(12)
        ]
        await publisher.publish_all(
            [
                *outgoing,
                OutgoingMessage(topic=WORKERS, key="scheduler", message=_scheduler_report(now)),
            ]
        )
        await asyncio.sleep(1)


def _worker_report(number: int, now: datetime) -> WorkerReport:
    states = tuple(
        LimiterReport(
            provider=provider,
            model="model",
            resource=resource,
            limit=5_000,
            share=416,
            level=9,
            used=300,
        )
        for provider, resource in (
            ("openai", "requests"),
            ("openai", "tokens"),
            ("replicate", "requests"),
        )
    )
    return WorkerReport(
        worker=f"worker-{number}",
        at=now,
        started_at=now,
        partitions=(2 * number, 2 * number + 1),
        slots=50,
        running=40,
        limiters=states,
    )


def _scheduler_report(now: datetime) -> SchedulerReport:
    stores = tuple(
        StoreQueueReport(
            store=f"store-{number}", queued=1_000 - number, in_flight=2, served_nanousd=1
        )
        for number in range(200)
    )
    assert GENERATION.partitions == 24, "two partitions for each of the twelve"
    return SchedulerReport(
        scheduler="scheduler", at=now, epoch=1, pending=50_000, in_flight=400, stores=stores
    )


async def _publish_load(publisher: Publisher) -> None:
    """Publish new jobs' events at a constant rate."""
    number, began, sent = 1_000_000, time.perf_counter(), 0
    while True:
        events = [event for job in range(number, number + 10) for event in _job_events(job)]
        await _publish(publisher, events)
        number, sent = number + 10, sent + len(events)
        await asyncio.sleep(max(began + sent / _EVENTS_A_SECOND - time.perf_counter(), 0))


async def _measure_endpoints(http: httpx.AsyncClient) -> dict[str, float]:
    """Return the 99th percentile in ms by path; two clients call all endpoints."""
    taken: dict[str, list[float]] = {path: [] for path in _PATHS}
    until = time.perf_counter() + _LOAD_S

    async def call_endpoints() -> None:
        while time.perf_counter() < until:
            for path in _PATHS:
                began = time.perf_counter()
                (await http.get(path)).raise_for_status()
                taken[path].append(1_000 * (time.perf_counter() - began))
                await asyncio.sleep(0.02)

    await asyncio.gather(call_endpoints(), call_endpoints())
    return {path: quantiles(values, n=100)[98] for path, values in taken.items()}
