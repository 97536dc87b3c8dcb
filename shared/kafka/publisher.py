"""Publishes messages with an idempotent Kafka producer (`acks=all`)."""

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
from shared.kafka.clients import METADATA_MAX_AGE_MS, namespace
from shared.kafka.envelope import Headers, encode_message
from shared.kafka.topics import DEAD_LETTER, Topic
from shared.observability import tracing
from shared.observability.log import get_logger
from shared.runtime.deadlines import Deadlines
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_SEQUENCE_ERRORS = (OutOfOrderSequenceNumber, UnknownProducerId)
MAX_RECORD_BYTES = 1_000_000
"""Below the broker's limit. A record that the broker refuses would break an idempotent producer."""
_BATCH_BYTES = 256 * 1024
"""Bytes of one partition's records in one request. aiokafka's 16 KiB would split a batch of a
hundred jobs into several, and each waits for the one before it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    topic: Topic
    key: str
    message: Message | None
    """`None` is a tombstone: it removes the key from a compacted topic."""
    partition: int | None = None


class Publisher:
    """An idempotent producer, replaced by a new one when the broker rejects its sequence."""

    def __init__(self, settings: KafkaSettings, *, source: str) -> None:
        self._settings = settings
        self._names = namespace(settings)
        self._source = source
        self._producer: AIOKafkaProducer | None = None
        self._replacing = asyncio.Lock()
        self._deadlines: Deadlines

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._deadlines = Deadlines()
        self._producer = await self._open_producer()

    async def stop(self, *, within_s: float = 10) -> None:
        """Deliver pending messages for about `within_s` seconds, and close.

        The rest is dropped; no caller was told that it is acknowledged.
        """
        if self._producer is None:
            return
        producer, self._producer = self._producer, None
        closing = asyncio.create_task(producer.stop(), name="producer-stop")
        await asyncio.wait({closing}, timeout=within_s)
        if not closing.done():
            log.warning("messages not acknowledged, dropped", seconds=within_s)
            # aiokafka waits for its sender, and the sender for requests and metadata, a minute or
            # longer. Cancel them all.
            producer._sender.sender_task.cancel()
            await producer.client.close()
            closing.cancel()
        await asyncio.wait({closing})
        if not closing.cancelled():
            closing.result()

    async def count_partitions(self, topic: Topic) -> int:
        """Return how many partitions of a topic messages can be sent to.

        A partition added a moment ago may be missing for 30 s. Raises KafkaError.
        """
        return len(await self._started_producer().partitions_for(self._names.topic(topic)))

    async def publish(self, outgoing: OutgoingMessage, *, timeout: float = 30) -> None:
        """Send one message and wait for all in-sync replicas. Raises KafkaError or TimeoutError."""
        producer = self._started_producer()
        with tracing.start_span(f"publish {outgoing.topic.name}", kind=tracing.PRODUCER):
            topic, key, value, headers, partition = self._encode_record(
                outgoing, tracing.trace_headers()
            )
            try:
                with self._deadlines.within(timeout):
                    await (await producer.send(topic, value, key, partition, None, headers))
            except _SEQUENCE_ERRORS:
                await self._replace_producer(producer)
                raise

    async def publish_all(self, batch: Sequence[OutgoingMessage], *, timeout: float = 30) -> None:
        """Send all messages and wait for all. Raises KafkaError or TimeoutError.

        After an error some messages may have been sent: send all again, readers drop repeats.
        """
        producer, trace = self._started_producer(), tracing.trace_headers()
        records = (self._encode_record(outgoing, trace) for outgoing in batch)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(
                    *await send_batches(producer, records, max_bytes=MAX_RECORD_BYTES)
                )
        except _SEQUENCE_ERRORS:
            await self._replace_producer(producer)
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
        """Send a raw record and wait for all in-sync replicas."""
        async with asyncio.timeout(30):
            await self._started_producer().send_and_wait(
                self._names.topic(topic),
                value=value,
                key=key,
                headers=list(headers),
                partition=partition,
            )

    async def publish_dead_letter(
        self, record: ConsumerRecord, error: Exception, *, group: str
    ) -> None:
        """Put an unchanged record on the dead letter queue; headers have the reason and the
        origin.
        """
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
        is_empty = record.key is None and record.value is None  # aiokafka refuses such a record
        await self._started_producer().send_and_wait(
            self._names.topic(DEAD_LETTER),
            value=record.value,
            key=b"" if is_empty else record.key,
            headers=headers,
        )

    def _encode_record(self, outgoing: OutgoingMessage, trace: Mapping[str, str]) -> BatchRecord:
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

    def _started_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise RuntimeError("the publisher is not started")
        return self._producer

    async def _open_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **client_options(self._settings),
            client_id=self._source,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            max_request_size=MAX_RECORD_BYTES,
            max_batch_size=_BATCH_BYTES,
            partitioner=partition_for_key,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
        )
        await producer.start()
        return producer

    async def _replace_producer(self, rejected: AIOKafkaProducer) -> None:
        async with self._replacing:
            already_replaced = self._producer is not rejected
            if not already_replaced:
                log.warning("broker rejected the producer's sequence, creating a new producer")
                self._producer = await self._open_producer()
                await rejected.stop()
