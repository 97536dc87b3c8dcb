"""Publishing one batch while the next is being written: Kafka and PostgreSQL are waited for at the same time."""

import asyncio
from collections.abc import Sequence

from shared.kafka.publisher import Outgoing, Publisher


class OrderedPublisher:
    """Batches go out one after the other, in order. Nothing counts as said before `flush` has returned."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._sending: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def send(self, batch: Sequence[Outgoing]) -> None:
        """Begin to publish a batch, once the one before is acknowledged. Raises what that one met."""
        async with self._turn:
            await self.flush()
            self._sending = asyncio.create_task(self._publisher.publish_all(batch), name="pipe")

    async def flush(self) -> None:
        """Return when everything is acknowledged."""
        sending, self._sending = self._sending, None
        if sending is not None:
            await sending

    async def abandon(self) -> None:
        """Let what is under way end, however it does: something else has failed already."""
        if self._sending is not None:
            await asyncio.gather(self._sending, return_exceptions=True)
