"""Publishes one batch while the next is prepared, so Kafka and PostgreSQL work at the same time."""

import asyncio
from collections.abc import Sequence

from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import Topic


class OrderedPublisher:
    """Publishes batches one at a time, in order.

    A batch is published for certain once `flush_batches` returns.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._publishing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def count_partitions(self, topic: Topic) -> int:
        """Return how many partitions of a topic messages can be sent to."""
        return await self._publisher.count_partitions(topic)

    async def publish_batch(self, batch: Sequence[OutgoingMessage]) -> None:
        """Start to publish a batch after Kafka has acknowledged the previous one.

        Raises the error of the previous batch.
        """
        async with self._lock:
            await self.flush_batches()
            self._publishing = asyncio.create_task(
                self._publisher.publish_all(batch), name="publish batch"
            )

    async def flush_batches(self) -> None:
        """Wait until every batch is acknowledged."""
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            await publishing

    async def abandon_batches(self) -> None:
        """Wait for the current batch and ignore its outcome: the session has already failed."""
        if self._publishing is not None:
            await asyncio.gather(self._publishing, return_exceptions=True)
