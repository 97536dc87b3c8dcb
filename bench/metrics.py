"""How many events a second does metrics count? Beside it: a bare loop that reads the same records into a dict.

The loop reads what Kafka has as fast as aiokafka gives it, decodes the JSON and adds one to a number of the store: it
checks nothing, survives nothing and tells no repeat from news. Metrics does all that, in the process that operators
run, its tables on disk and their changelog on the broker. Then its endpoints are asked while events come in, with as
many stores as a large system has, and its memory is looked at with ten times as many.
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
from shared.kafka.publisher import Outgoing, Publisher
from shared.kafka.topics import GENERATION, RESULTS, WORKERS
from shared.runtime.settings import KafkaSettings

_STORES, _MANY_STORES = 10_000, 100_000
_JOBS = 20_000
_EVENTS_A_JOB = 6
_IN_FLIGHT = 500
_ASKED_FOR_S = 15.0
_EVENTS_A_SECOND = 1_000
"""While the endpoints are asked: what some eighty workers tell."""
_PATIENCE_S = 240.0
_AT_ONCE = 2_000
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
class Seen:
    counted: float
    """Events a second."""
    of_cpu: float
    """Events a second of one core's time: what other processes on the machine do not change."""
    p99: dict[str, float]
    """Milliseconds by path."""
    memory: tuple[float, float]
    """MiB with so many stores, and with many."""


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    async with running_kafka() as bootstrap:
        settings = KafkaSettings(kafka_bootstrap_servers=bootstrap)
        await clients.ensure_topics(settings)
        async with Publisher(settings, source="bench") as publisher:
            await _publish(publisher, _interleaved(range(_JOBS)))
            bare = await _bare(settings)
            seen = await _metrics(settings, publisher)
    part, worst = seen.counted / bare, max(seen.p99.values())
    return Result(
        question=f"How many events a second does metrics count? ({_JOBS * _EVENTS_A_JOB:,} events, {_STORES:,} stores)",
        header=["", ""],
        rows=[
            ["a bare loop with a dict", f"{bare:,.0f} events/s"],
            ["metrics", f"{seen.counted:,.0f} events/s"],
            ["metrics, for each second of one core", f"{seen.of_cpu:,.0f} events"],
            *([f"GET {path}, p99", f"{value:.1f} ms"] for path, value in seen.p99.items()),
            [f"memory with {_STORES:,} stores", f"{seen.memory[0]:,.0f} MiB"],
            [f"memory with {_MANY_STORES:,} stores", f"{seen.memory[1]:,.0f} MiB"],
        ],
        ratios=[
            Ratio(what="metrics ÷ a bare loop", seen=part, bar="stated, none set", held=True),
            Ratio(
                what="events a second", seen=seen.counted, bar="≥ 5,000", held=seen.counted >= 5_000
            ),
            Ratio(
                what=f"slowest endpoint's p99 in ms, {_EVENTS_A_SECOND:,} events/s coming in",
                seen=worst,
                bar="≤ 50",
                held=worst <= 50,
            ),
        ],
    )


def _life(number: int, stores: int = _STORES) -> Iterator[JobEvent]:
    """All events of a job that goes well."""
    store, asked = f"store-{number % stores}", datetime.now(UTC) - timedelta(seconds=100)

    def event(kind: EventKind, after_s: float, status: Status, step: str | None = None) -> JobEvent:
        return JobEvent(
            job=UUID(int=number),
            store=store,
            kind=kind,
            status=status,
            attempt=int(after_s > 1),
            at=asked + timedelta(seconds=after_s),
            created_at=asked,
            step=step,
            worker="worker-1",
            started_at=asked + timedelta(seconds=3) if after_s >= 3 else None,
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
    """The events of jobs of which so many are in flight at a time: those of one job do not come together."""
    blocks = (numbers[first : first + _IN_FLIGHT] for first in range(0, len(numbers), _IN_FLIGHT))
    return [
        event
        for block in blocks
        for moment in zip(*map(_life, block), strict=True)
        for event in moment
    ]


async def _publish(publisher: Publisher, events: list[JobEvent]) -> None:
    for first in range(0, len(events), _AT_ONCE):
        batch = events[first : first + _AT_ONCE]
        await publisher.publish_all(
            [Outgoing(topic=RESULTS, key=event.store, message=event) for event in batch]
        )


async def _bare(settings: KafkaSettings) -> float:
    """Events a second of a loop that only reads and adds."""
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


async def _metrics(settings: KafkaSettings, publisher: Publisher) -> Seen:
    async with _process(settings) as (process, http):
        reporting = asyncio.create_task(
            _report(publisher)
        )  # it tells nothing before it has heard of anybody
        try:
            counted, of_cpu = await _counting(process, http)
            loading = asyncio.create_task(_load(publisher))
            try:
                p99 = await _ask(http)
            finally:
                loading.cancel()
        finally:
            reporting.cancel()
        few = process.memory_info().rss / 2**20
        done = await _done(http)
        more = [
            event
            for number in range(10_000_000, 10_000_000 + _MANY_STORES)
            for event in list(_life(number, _MANY_STORES))[:: _EVENTS_A_JOB - 1]
        ]
        await _publish(publisher, more)
        await _until_done(http, done + _MANY_STORES)
        return Seen(counted, of_cpu, p99, (few, process.memory_info().rss / 2**20))


@asynccontextmanager
async def _process(
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


async def _done(http: httpx.AsyncClient) -> int:
    try:
        answer = await http.get("/api/overview")
        return int(answer.json()["jobs"]["DONE"]) if answer.is_success else 0
    except httpx.HTTPError:
        return 0


async def _until_done(http: httpx.AsyncClient, jobs: int) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while await _done(http) < jobs:
            await asyncio.sleep(0.25)


async def _counting(process: psutil.Process, http: httpx.AsyncClient) -> tuple[float, float]:
    """Events a second, and for a second of CPU time, from the first that is seen to be counted to the last."""
    await _until_done(http, 1)
    first, began, before = await _done(http), time.perf_counter(), process.cpu_times()
    await _until_done(http, _JOBS)
    events, after = (_JOBS - first) * _EVENTS_A_JOB, process.cpu_times()
    worked = after.user + after.system - before.user - before.system
    return events / (time.perf_counter() - began), events / worked


async def _report(publisher: Publisher) -> None:
    """What twelve workers and the scheduler say once a second."""
    while True:
        now = datetime.now(UTC)
        outgoing = [
            Outgoing(topic=WORKERS, key=f"worker-{n}", message=_worker(n, now)) for n in range(12)
        ]
        await publisher.publish_all(
            [*outgoing, Outgoing(topic=WORKERS, key="scheduler", message=_scheduler(now))]
        )
        await asyncio.sleep(1)


def _worker(number: int, now: datetime) -> WorkerReport:
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


def _scheduler(now: datetime) -> SchedulerReport:
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


async def _load(publisher: Publisher) -> None:
    """New jobs' events, evenly over the second."""
    number, began, sent = 1_000_000, time.perf_counter(), 0
    while True:
        events = [event for job in range(number, number + 10) for event in _life(job)]
        await _publish(publisher, events)
        number, sent = number + 10, sent + len(events)
        await asyncio.sleep(max(began + sent / _EVENTS_A_SECOND - time.perf_counter(), 0))


async def _ask(http: httpx.AsyncClient) -> dict[str, float]:
    """Milliseconds that 99 of 100 answers take, by path: two dashboards that ask for everything, again and again."""
    taken: dict[str, list[float]] = {path: [] for path in _PATHS}
    until = time.perf_counter() + _ASKED_FOR_S

    async def dashboard() -> None:
        while time.perf_counter() < until:
            for path in _PATHS:
                began = time.perf_counter()
                (await http.get(path)).raise_for_status()
                taken[path].append(1_000 * (time.perf_counter() - began))
                await asyncio.sleep(0.02)

    await asyncio.gather(dashboard(), dashboard())
    return {path: quantiles(values, n=100)[98] for path, values in taken.items()}
