"""What was read since the last commit: committed once everything that follows from it is written, or read again."""

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

    def began(self, batches: Batches) -> None:
        for partition, records in batches.items():
            self._first.setdefault(partition, records[0].offset)

    def done(self, batches: Batches) -> None:
        self._next.update(
            {partition: records[-1].offset + 1 for partition, records in batches.items()}
        )

    async def commit(self, consumer: AIOKafkaConsumer) -> None:
        if self._next:
            await clients.commit_offsets(consumer, self._next, within_s=_COMMIT_WITHIN_S)
            self.forget()

    def rewind(self, consumer: AIOKafkaConsumer) -> None:
        """Read everything since the last commit again."""
        _seek(consumer, self._first)
        self.forget()

    def forget(self) -> None:
        self._first.clear()
        self._next.clear()


def rewind_batches(consumer: AIOKafkaConsumer, batches: Batches) -> None:
    """Read these again."""
    _seek(consumer, {partition: records[0].offset for partition, records in batches.items()})


def _seek(consumer: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """`seek_to_committed` would pass over partitions that have no commit yet."""
    for partition, offset in offsets.items():
        if partition in consumer.assignment():
            consumer.seek(partition, offset)
