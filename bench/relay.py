"""How many decisions a second go through the real topics, compared with a bare relay?

The scheduler runs as in production: requests from Kafka become rows in PostgreSQL, are announced,
ordered, marked as dispatched, and sent to partitions. The relay reads the same requests in equally
large batches and sends as many records as the scheduler, one to the results and one to a partition,
but decides, writes and encodes nothing.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from statistics import median
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from bench.result import Ratio, Result
from bench.servers import running_kafka, running_postgres
from sandbox.servers.postgres import open_connection
from services.scheduler.__main__ import run_scheduler as start_scheduler
from services.scheduler.settings import SchedulerSettings
from shared.domain.job import SourceType
from shared.domain.messages import BlogRequested, WorkerReport
from shared.kafka import clients
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import GENERATION, REQUESTS, RESULTS, WORKERS, Topic
from shared.runtime import lifecycle
from shared.runtime.settings import KafkaSettings

_JOBS = 20_000
_STORES = 100
_REPEATS = 5
_BATCH = 500

_TIMEOUT_S = 60.0

Forwarder = Callable[[KafkaSettings, str, asyncio.Event], Coroutine[None, None, None]]


def run() -> Result:
    lifecycle.tune_garbage_collection()  # as every service does; both sides profit
    return asyncio.run(_measure())


async def _measure() -> Result:
    async with running_kafka() as bootstrap, running_postgres() as dsn:
        pairs = []
        for turn in range(_REPEATS):
            relay_s = await _measure_seconds(_run_relay, bootstrap, dsn, f"relay{turn}.")
            pairs.append(
                (
                    relay_s,
                    await _measure_seconds(_run_scheduler, bootstrap, dsn, f"schedule{turn}."),
                )
            )
    relayed, decided = (_JOBS / median(column) for column in zip(*pairs, strict=True))
    part = median(relay_s / scheduler_s for relay_s, scheduler_s in pairs)
    return Result(
        question="How many decisions a second go through the real topics?"
        f" ({_JOBS:,} requests, BATCH_SIZE={_BATCH})",
        header=["", ""],
        rows=[
            ["a bare relay", f"{relayed:,.0f} records/s"],
            ["the scheduler", f"{decided:,.0f} decisions/s"],
        ],
        ratios=[
            Ratio(
                name="the scheduler ÷ a bare relay", measured=part, target="≥ 0.5", met=part >= 0.5
            )
        ],
    )


async def _measure_seconds(forward: Forwarder, bootstrap: str, dsn: str, prefix: str) -> float:
    """Return the seconds from the first sent record to the last task; all requests exist before."""
    settings = KafkaSettings(kafka_bootstrap_servers=bootstrap, kafka_topic_prefix=prefix)
    await clients.ensure_topics(settings)
    async with Publisher(settings, source="bench") as publisher:
        await publisher.publish_all([_request(number) for number in range(_JOBS)], timeout=120)
        stop = asyncio.Event()
        forwarding = asyncio.create_task(forward(settings, dsn, stop))
        reporting = asyncio.create_task(_publish_reports(publisher))
        try:
            return await _until_all_sent(settings)
        finally:
            reporting.cancel()
            stop.set()
            await forwarding


def _request(number: int) -> OutgoingMessage:
    request = BlogRequested(
        id=uuid4(),
        store=f"store-{number % _STORES}",
        created_at=datetime.now(UTC),
        source_type=SourceType.KEYWORD,
        source_id=f"keyword-{number}",
        title="How to brew green tea at home",
        keywords=("tea", "brewing"),
    )
    return OutgoingMessage(topic=REQUESTS, key=request.store, message=request)


async def _publish_reports(publisher: Publisher) -> None:
    """Report a worker with slots for all jobs, so that credit does not limit the scheduler."""
    while True:
        now = datetime.now(UTC)
        report = WorkerReport(
            worker="bench",
            at=now,
            started_at=now,
            partitions=tuple(range(GENERATION.partitions)),
            slots=_JOBS,
            running=0,
        )
        await publisher.publish(OutgoingMessage(topic=WORKERS, key="bench", message=report))
        await asyncio.sleep(1)


async def _run_scheduler(settings: KafkaSettings, dsn: str, stop: asyncio.Event) -> None:
    async with open_connection(dsn) as connection:
        # Jobs of an earlier turn would use up the credit.
        await connection.execute("TRUNCATE blog_generations CASCADE")
    values = {
        "database_url": dsn,
        "worker_silence_s": 60,
        "max_pending_per_store": _JOBS,
        "batch_size": _BATCH,
    }
    await start_scheduler(
        SchedulerSettings.model_validate(settings.model_dump() | values), stop, "scheduler"
    )


async def _run_relay(settings: KafkaSettings, _: str, stop: asyncio.Event) -> None:
    names = clients.namespace(settings)
    consumer = clients.create_consumer(
        settings, names.topic(REQUESTS), group_id=f"{settings.kafka_topic_prefix}relay"
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
    )
    async with consumer, producer:
        sent = 0
        while not stop.is_set():
            batches = await consumer.getmany(timeout_ms=200, max_records=_BATCH)
            futures = []
            for record in (record for records in batches.values() for record in records):
                partition, sent = sent % GENERATION.partitions, sent + 1
                record_fields: dict[str, Any] = {
                    "value": record.value,
                    "key": record.key,
                    "headers": list(record.headers),
                }
                futures.append(await producer.send(names.topic(RESULTS), **record_fields))
                futures.append(
                    await producer.send(
                        names.topic(GENERATION), **record_fields, partition=partition
                    )
                )
            await asyncio.gather(*futures)
            if batches:
                await consumer.commit()


async def _until_all_sent(settings: KafkaSettings) -> float:
    consumer: AIOKafkaConsumer = clients.create_consumer(settings)
    async with consumer, asyncio.timeout(_TIMEOUT_S):
        while not await _count_records(
            consumer, clients.namespace(settings).topic(RESULTS), RESULTS
        ):
            await asyncio.sleep(0.01)
        began = time.perf_counter()
        while (
            await _count_records(
                consumer, clients.namespace(settings).topic(GENERATION), GENERATION
            )
            < _JOBS
        ):
            await asyncio.sleep(0.01)
        return time.perf_counter() - began


async def _count_records(consumer: AIOKafkaConsumer, name: str, topic: Topic) -> int:
    ends = await consumer.end_offsets(
        [TopicPartition(name, number) for number in range(topic.partitions)]
    )
    return sum(ends.values())
