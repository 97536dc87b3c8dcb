"""The publisher: an idempotent Kafka producer with `acks=all` that survives a rejected sequence."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import OutOfOrderSequenceNumber, UnknownProducerId
from aiokafka.structs import ConsumerRecord

from shared.domain.messages import Message
from shared.kafka.access import client_options
from shared.kafka.batches import BatchRecord, partition_for_key, send_batches
from shared.kafka.clients import namespace
from shared.kafka.envelope import Headers, encode_message
from shared.kafka.topics import DEAD_LETTER, Topic
from shared.observability import tracing
from shared.observability.log import get_logger
from shared.runtime.deadlines import Deadlines
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_POISONED = (OutOfOrderSequenceNumber, UnknownProducerId)
MAX_RECORD_BYTES = 1_000_000
"""Below the broker's limit: a record that the broker refuses would poison an idempotent producer."""
_BATCH_BYTES = 256 * 1024
"""Of one partition's records in one request. aiokafka's 16 KiB splits a batch of a hundred jobs into several, and each
waits for the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    topic: Topic
    key: str
    message: Message | None
    """None is a tombstone: it removes the key from a compacted topic."""
    partition: int | None = None


class Publisher:
    """An idempotent producer with `acks=all` that is made anew when the broker has poisoned it."""

    def __init__(self, settings: KafkaSettings, *, source: str) -> None:
        self._settings = settings
        self._names = namespace(settings)
        self._source = source
        self._producer: AIOKafkaProducer | None = None
        self._renewal = asyncio.Lock()
        self._deadlines: Deadlines

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._deadlines = Deadlines()
        self._producer = await self._open()

    async def stop(self, *, within_s: float = 10) -> None:
        """Deliver what is under way, for at most about `within_s` seconds, and close.

        What is given up was acknowledged to nobody.
        """
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        closing = asyncio.create_task(producer.stop(), name="the producer's end")
        await asyncio.wait({closing}, timeout=within_s)
        if not closing.done():
            log.warning("Kafka did not take what was under way: it is given up", seconds=within_s)
            # aiokafka waits for its sender, and that for requests and metadata, a minute and longer: end them all.
            producer._sender.sender_task.cancel()
            await producer.client.close()
            closing.cancel()
        await asyncio.wait({closing})
        if not closing.cancelled():
            closing.result()

    async def publish(self, outgoing: OutgoingMessage, *, timeout: float = 30) -> None:
        """Send one message and wait until all in-sync replicas have it. Raises KafkaError or TimeoutError."""
        producer = self._current()
        with tracing.start_span(f"publish {outgoing.topic.name}", kind=tracing.PRODUCER):
            topic, key, value, headers, partition = self._record(outgoing, tracing.trace_headers())
            try:
                with self._deadlines.within(timeout):
                    await (await producer.send(topic, value, key, partition, None, headers))
            except _POISONED:
                await self._renew(producer)
                raise

    async def publish_all(self, batch: Sequence[OutgoingMessage], *, timeout: float = 30) -> None:
        """Send all and wait for all. On an error some may have gone out: send them again, readers drop repeats."""
        producer, trace = self._current(), tracing.trace_headers()
        records = (self._record(outgoing, trace) for outgoing in batch)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(
                    *await send_batches(producer, records, max_bytes=MAX_RECORD_BYTES)
                )
        except _POISONED:
            await self._renew(producer)
            raise

    async def publish_record(
        self,
        topic: Topic,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
    ) -> None:
        """Send a record as it is, whatever it holds, and wait until all in-sync replicas have it."""
        async with asyncio.timeout(30):
            await self._current().send_and_wait(
                self._names.topic(topic),
                value=value,
                key=key,
                headers=list(headers),
                partition=partition,
            )

    async def publish_dead_letter(
        self, record: ConsumerRecord, error: Exception, *, group: str
    ) -> None:
        """Put a record that cannot be handled aside, as it came, with the reason and where it came from."""
        origin = {
            "dlq_topic": record.topic,
            "dlq_partition": record.partition,
            "dlq_offset": record.offset,
            "dlq_timestamp": record.timestamp,
            "dlq_group": group,
            "dlq_error": type(error).__name__,
            "dlq_reason": str(error),
            "dlq_at": datetime.now(UTC).isoformat(),
        }
        headers = [
            *record.headers,
            *((name, str(value).encode()) for name, value in origin.items()),
        ]
        nothing = record.key is None and record.value is None  # aiokafka sends no record like that
        await self._current().send_and_wait(
            self._names.topic(DEAD_LETTER),
            value=record.value,
            key=b"" if nothing else record.key,
            headers=headers,
        )

    def _record(self, outgoing: OutgoingMessage, trace: Mapping[str, str]) -> BatchRecord:
        value, headers = None, list[tuple[str, bytes]]()
        if outgoing.message is not None:
            value, headers = encode_message(outgoing.message, source=self._source, trace=trace)
        return BatchRecord(
            self._names.topic(outgoing.topic),
            outgoing.key.encode(),
            value,
            headers,
            partition=outgoing.partition,
        )

    def _current(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the publisher is not started")
        return self._producer

    async def _open(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **client_options(self._settings),
            client_id=self._source,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            max_request_size=MAX_RECORD_BYTES,
            max_batch_size=_BATCH_BYTES,
            partitioner=partition_for_key,
        )
        await producer.start()
        return producer

    async def _renew(self, poisoned: AIOKafkaProducer) -> None:
        async with self._renewal:
            renewed_meanwhile = self._producer is not poisoned
            if not renewed_meanwhile:
                log.warning(
                    "the broker rejected the producer's sequence: a new producer takes over"
                )
                self._producer = await self._open()
                await poisoned.stop()
