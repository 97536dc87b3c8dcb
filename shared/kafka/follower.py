"""A topic that a process reads without a consumer group: all of it, or from now on."""

import asyncio
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from shared.kafka.clients import create_consumer, topic_partitions
from shared.kafka.ranges import read_range
from shared.kafka.topics import Topic
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_POLL_MS = 5_000
"""A poll ends at once when records arrive. A long poll keeps an idle process idle."""
_GAP_TIMEOUT_S = 1.0
"""Compaction may leave nothing to read before the end."""
_RETRY_S = 1.0


class TopicFollower:
    """Calls `handle_record` with every record, in the order of each partition.

    `following` is true while the caller's copy of the topic is kept up to date.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: Topic,
        handle_record: Callable[[ConsumerRecord], None],
    ) -> None:
        self.following = False
        self._topic = topic
        self._handle_record = handle_record
        self._consumer: AIOKafkaConsumer = create_consumer(settings, fetch_max_wait_ms=_POLL_MS)
        self._partitions = topic_partitions(settings, topic)

    async def start(self) -> None:
        """Read the topic from its beginning to its end, so that a restart forgets nothing."""
        await self._consumer.start()
        async for records in read_range(
            self._consumer, self._partitions, gap_timeout_s=_GAP_TIMEOUT_S
        ):
            for record in records:
                self._handle_record(record)
        self.following = True

    async def start_at_end(self) -> None:
        """Skip all records up to now."""
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        await self._consumer.seek_to_end(*self._partitions)
        for partition in self._partitions:  # the seek is complete when the position is known
            await self._consumer.position(partition)
        self.following = True

    async def follow_topic(self) -> None:
        """Handle new records until cancelled. While Kafka is unavailable, the copy stays."""
        while True:
            try:
                batches = await self._consumer.getmany(*self._partitions, timeout_ms=_POLL_MS)
                for record in (record for batch in batches.values() for record in batch):
                    self._handle_record(record)
                self.following = True
            except KafkaError as error:
                if self.following:
                    reason = f"{type(error).__name__}: {error}"
                    log.error(
                        "dependency unavailable, retrying",
                        dependency="Kafka",
                        operation="follow topic",
                        topic=self._topic.name,
                        reason=reason,
                    )
                self.following = False
                await asyncio.sleep(_RETRY_S)

    async def stop(self) -> None:
        self.following = False
        await self._consumer.stop()
