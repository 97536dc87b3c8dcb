"""What does a blog cost each part of the system, and what does an idle cell cost?

One cell runs with a real broker and database: a scheduler, a worker, metrics. All requests are
published at once, after the services are ready. Counters are read before and after: PostgreSQL's
statements (without BEGIN, COMMIT and the pool's resets), commits and rows, Kafka's records of all
topics, and the processor time of each process.
Ingest is not part of it (`bench ingest` measures it), except for the records that it publishes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import psutil
from aiokafka.structs import TopicPartition

from bench.account.decisions import AMPLE_LIMITS
from bench.account.fleet import (
    API_KEY,
    ServiceFleet,
    count_ended_jobs,
    start_fleet,
)
from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres, running_process
from sandbox.servers.postgres import open_connection
from sandbox.system.home import free_port
from shared.domain.errors import Unavailable
from shared.kafka import clients
from shared.runtime.settings import KafkaSettings

_COMMANDS = {
    "scheduler": "services.scheduler",
    "generator": "services.generator",
    "metrics": "services.metrics",
    "postgres": "postgres",
    "kafka": "kafka.Kafka",
}
"""The parts of a cell, each with the words in the command line of its processes."""
_PARTS = tuple(_COMMANDS)
_SHOWN = {
    "statements": "statements",
    "commits": "commits",
    "rows written": "rows_written",
    "KiB of WAL": "wal_kib",
    "Kafka records": "records",
}
"""The counters' columns."""
_STORES = 20
_IDLE_S = 20.0
_FLUSH_S = 12.0
"""An idle connection adds its commits and rows to PostgreSQL's statistics after ten seconds."""
_DEADLINE_S = 180.0

_CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_COUNTERS = """
SELECT (SELECT sum(calls) FROM pg_stat_statements
         WHERE dbid = own.datid
           AND query !~ '^(BEGIN|COMMIT|ROLLBACK|SELECT pg_advisory_unlock|CLOSE|UNLISTEN|RESET)'
       )::bigint AS statements,
       xact_commit AS commits, tup_inserted + tup_updated + tup_deleted AS rows_written,
       (pg_current_wal_lsn() - '0/0'::pg_lsn) / 1024 AS wal_kib
  FROM pg_stat_database AS own WHERE datname = current_database()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`latency_ms` is that of a text; an image takes twice as long."""

    name: str
    prefix: str
    jobs: int
    latency_ms: int


_CASES = (
    Case(name="providers answer at once", prefix="flat-out.", jobs=1_500, latency_ms=0),
    Case(name="1 s per text, 2 s per image", prefix="calm.", jobs=400, latency_ms=1_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostWindow:
    """What `jobs` blogs, or an idle time without blogs, have cost in `seconds`."""

    name: str
    jobs: int
    seconds: float
    counters: Mapping[str, float]
    """Also the processor seconds of each part."""
    connections: int
    """PostgreSQL's connections of the services at the end."""


def run() -> Result:
    return asyncio.run(_run())


async def _run() -> Result:
    async with (
        running_kafka() as bootstrap,
        running_postgres("shared_preload_libraries=pg_stat_statements") as dsn,
    ):
        async with open_connection(dsn) as connection:
            await connection.execute("CREATE EXTENSION pg_stat_statements")
        blogs, idle = zip(
            *[await _measure_case(dsn, bootstrap, case) for case in _CASES], strict=True
        )
    return _build_result(blogs, idle[-1])


async def _measure_case(dsn: str, bootstrap: str, case: Case) -> tuple[CostWindow, CostWindow]:
    """Return the cost of the case's blogs, and of the idle cell afterwards."""
    print(f"  {case.name} …", flush=True)
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic_prefix=case.prefix)
    async with _running_cell(dsn, bootstrap, case) as fleet:
        blogs = await _measure(dsn, settings, case, _write_blogs(dsn, fleet, case))
        await asyncio.sleep(_FLUSH_S)
        idle = await _measure(dsn, settings, None, asyncio.sleep(_IDLE_S))
        fleet.check_processes()
    return blogs, idle


@asynccontextmanager
async def _running_cell(dsn: str, bootstrap: str, case: Case) -> AsyncIterator[ServiceFleet]:
    """Run the stand-ins, a scheduler, a worker and metrics."""
    texts, images, metrics = free_port(), free_port(), free_port()
    standins = {
        "STANDIN_OPENAI_PORT": str(texts),
        "STANDIN_REPLICATE_PORT": str(images),
        "STANDIN_OPENAI_LATENCY_MS": str(case.latency_ms),
        "STANDIN_REPLICATE_LATENCY_MS": str(2 * case.latency_ms),
        "OPENAI_RPM": str(AMPLE_LIMITS.rpm),
        "OPENAI_TPM": str(AMPLE_LIMITS.tpm),
        "REPLICATE_RPM": str(AMPLE_LIMITS.rpm),
    }
    server = f"http://127.0.0.1:{texts}"
    with TemporaryDirectory(prefix="blogstream-bench-") as folder:
        async with (
            running_process("sandbox.providers", ready_at=f"{server}/", variables=standins),
            start_fleet(
                dsn=dsn,
                bootstrap=bootstrap,
                prefix=case.prefix,
                url=f"{server}/v1",
                limits=AMPLE_LIMITS,
                backlog=0,
                REPLICATE_API_TOKEN=API_KEY,
                REPLICATE_BASE_URL=f"http://127.0.0.1:{images}",
                REPLICATE_RPM=str(AMPLE_LIMITS.rpm),
                REPLICATE_READ_RPM=str(AMPLE_LIMITS.rpm),
                METRICS_PORT=str(metrics),
                METRICS_DIR=folder,
                DB_POOL_MIN="10",  # as by default
                DB_POOL_MAX="100",
            ) as fleet,
        ):
            await asyncio.gather(fleet.start("generator"), fleet.start("metrics"))
            yield fleet


async def _write_blogs(dsn: str, fleet: ServiceFleet, case: Case) -> None:
    """Publish the case's requests and wait until all jobs are DONE."""
    await fleet.submit_requests(
        [f"store-{number % _STORES}" for number in range(case.jobs)], images=1
    )
    async with asyncio.timeout(_DEADLINE_S):
        while (ended := await count_ended_jobs(dsn)) != (case.jobs, 0):
            if ended[1]:
                raise Unavailable(f"{ended[1]} jobs failed: the measurement is not valid")
            await asyncio.sleep(1)


async def _measure(
    dsn: str, settings: KafkaSettings, case: Case | None, work: Awaitable[None]
) -> CostWindow:
    """Return what `work` costs; `case` is `None` for a time without blogs."""
    before, began = await _read_counters(dsn, settings), time.monotonic()
    await work
    seconds = time.monotonic() - began
    after = await _read_counters(dsn, settings)
    async with open_connection(dsn) as connection:
        connections: int = await connection.fetchval(_CONNECTIONS)
    return CostWindow(
        name=case.name if case else f"idle, for {seconds:.0f} s",
        jobs=case.jobs if case else 0,
        seconds=seconds,
        counters={name: after[name] - before[name] for name in before},
        connections=connections,
    )


async def _read_counters(dsn: str, settings: KafkaSettings) -> dict[str, float]:
    """Return the statements, commits, rows, records and processor seconds until now."""
    async with open_connection(dsn) as connection:
        row = await connection.fetchrow(_COUNTERS)
    assert row is not None
    return {name: float(value) for name, value in row.items()} | {
        "records": await _count_records(settings),
        **_read_cpu_times(),
    }


async def _count_records(settings: KafkaSettings) -> float:
    """Return the end offsets of all partitions of all topics with the prefix, as one sum."""
    admin = await clients.open_admin(settings)
    try:
        names = [
            one for one in await admin.list_topics() if one.startswith(settings.kafka_topic_prefix)
        ]
        described = await admin.describe_topics(names)
    finally:
        await admin.close()
    partitions = [
        TopicPartition(topic["topic"], one["partition"])
        for topic in described
        for one in topic["partitions"]
    ]
    async with clients.create_consumer(settings) as consumer:
        return float(sum((await consumer.end_offsets(partitions)).values()))


def _read_cpu_times() -> dict[str, float]:
    """Return the processor seconds of the servers and services that this process started."""
    seconds = dict.fromkeys(_PARTS, 0.0)
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            part = next((part for part, words in _COMMANDS.items() if words in line), None)
            if part is not None:
                times = process.cpu_times()  # PostgreSQL's closed connections count as children
                seconds[part] += times.user + times.system
                seconds[part] += times.children_user + times.children_system
    return seconds


def _build_result(blogs: Sequence[CostWindow], idle: CostWindow) -> Result:
    return Result(
        question="What does a blog cost each part? (outline, article, image; one cell with one"
        f" worker; {psutil.cpu_count()} processors, shared with stand-ins and all else)",
        header=[
            "per blog",
            "blogs/min",
            "connections",
            *_SHOWN,
            *(f"CPU of {part}" for part in _PARTS),
        ],
        rows=[
            *(
                _row(one, one.jobs, f"{60 * one.jobs / one.seconds:,.0f}", cpu_unit=" ms")
                for one in blogs
            ),
            _row(idle, idle.seconds, "0", cpu_unit=" ms/s"),
        ],
        ratios=[_bar(blogs, name, most) for name, most in (("statements", 25), ("records", 20))],
    )


def _row(window: CostWindow, count: float, rate: str, *, cpu_unit: str) -> list[str]:
    """Return a row with the counters divided by `count`, blogs or seconds."""
    name = window.name if window.jobs else f"{window.name}: per second"
    shown = (f"{window.counters[key] / count:,.1f}" for key in _SHOWN.values())
    cpu = (f"{1000 * window.counters[part] / count:.1f}{cpu_unit}" for part in _PARTS)
    return [name, rate, str(window.connections), *shown, *cpu]


def _bar(blogs: Sequence[CostWindow], name: str, most: int) -> Ratio:
    worst = max(one.counters[name] / one.jobs for one in blogs)
    return Ratio(name=f"{name} per blog", measured=worst, target=f"≤ {most}", met=worst <= most)
