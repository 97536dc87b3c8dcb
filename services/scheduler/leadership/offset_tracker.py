"""Tracks the records read since the last commit: committed after their effects, or read again."""

from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from shared.kafka import clients

_COMMIT_WITHIN_S = 10.0

Batches = Mapping[TopicPartition, Sequence[ConsumerRecord]]


class OffsetTracker:
    def __init__(self) -> None:
        self._first: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}

    def record_read(self, batches: Batches) -> None:
        for partition, records in batches.items():
            self._first.setdefault(partition, records[0].offset)

    def record_processed(self, batches: Batches) -> None:
        self._next.update(
            {partition: records[-1].offset + 1 for partition, records in batches.items()}
        )

    async def commit_offsets(self, consumer: AIOKafkaConsumer) -> None:
        if self._next:
            await clients.commit_offsets(consumer, self._next, within_s=_COMMIT_WITHIN_S)
            self.clear_offsets()

    def rewind_offsets(self, consumer: AIOKafkaConsumer) -> None:
        """Seek back to the first record read since the last commit."""
        _seek_offsets(consumer, self._first)
        self.clear_offsets()

    def clear_offsets(self) -> None:
        self._first.clear()
        self._next.clear()


def rewind_batches(consumer: AIOKafkaConsumer, batches: Batches) -> None:
    """Seek back to the start of these batches, so that they are read again."""
    _seek_offsets(
        consumer, {partition: records[0].offset for partition, records in batches.items()}
    )


def _seek_offsets(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """Seek assigned partitions. `seek_to_committed` would skip partitions without a commit."""
    for partition, offset in offsets.items():
        if partition in consumer.assignment():
            consumer.seek(partition, offset)
