"""A topic that every ingest process reads for itself: all of it, or what is said from now on."""

import asyncio
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from shared.kafka import clients
from shared.kafka.topics import Topic
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_POLL_MS = 5_000
"""A poll ends at once when there is news; a long one keeps an idle process idle."""
_CATCH_UP_MS = 1_000
_PAUSE_S = 1.0


class TopicFollower:
    """`hear` is called with every record, in order; `following` says whether the copy is kept up to date."""

    def __init__(
        self, settings: KafkaSettings, topic: Topic, hear: Callable[[ConsumerRecord], None]
    ) -> None:
        self.following = False
        self._topic = topic
        self._hear = hear
        self._consumer: AIOKafkaConsumer = clients.create_consumer(
            settings, fetch_max_wait_ms=_POLL_MS
        )
        name = clients.namespace(settings).topic(topic)
        self._partitions = [TopicPartition(name, number) for number in range(topic.partitions)]

    async def start(self) -> None:
        """Read what has been said so far, so that a restart forgets nothing."""
        await self._consumer.start()
        # The ends first: once assigned, a question would stand in line behind the long poll on the same connection.
        ends = await self._consumer.end_offsets(self._partitions)
        self._consumer.assign(self._partitions)
        # Compaction may leave nothing to read before the end: an empty poll ends this, too.
        while await self._behind(ends) and await self._take(_CATCH_UP_MS):
            pass
        self.following = True

    async def start_at_end(self) -> None:
        """Hear only what is said from now on."""
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        await self._consumer.seek_to_end(*self._partitions)
        for partition in self._partitions:  # the seek is done when the position is known
            await self._consumer.position(partition)
        self.following = True

    async def follow(self) -> None:
        """Until cancelled. While Kafka cannot be read, the copy stays as it was."""
        while True:
            try:
                await self._take(_POLL_MS)
                self.following = True
            except KafkaError as error:
                if self.following:
                    reason = f"{type(error).__name__}: {error}"
                    log.error("a topic is not followed", topic=self._topic.name, reason=reason)
                self.following = False
                await asyncio.sleep(_PAUSE_S)

    async def stop(self) -> None:
        self.following = False
        await self._consumer.stop()

    async def _behind(self, ends: dict[TopicPartition, int]) -> bool:
        return any(
            [await self._consumer.position(partition) < end for partition, end in ends.items()]
        )

    async def _take(self, timeout_ms: int) -> int:
        """Take in the next records; how many there were."""
        batches = (await self._consumer.getmany(*self._partitions, timeout_ms=timeout_ms)).values()
        for record in (record for batch in batches for record in batch):
            self._hear(record)
        return sum(map(len, batches))
