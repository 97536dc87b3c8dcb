"""Whose door is closed: a copy of blog.control, read from its beginning by every ingest process for itself.

The scheduler closes a store's door when its queue is full (or everybody's, `*`) and opens it with a tombstone. Kafka
keeps the last word for each key, so a process that starts late knows what the others know.
"""

import asyncio

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.ingest.rules import door
from shared import kafka
from shared.errors import InvalidMessage
from shared.log import get_logger
from shared.messages import StoreGate
from shared.settings import KafkaSettings
from shared.topics import CONTROL

log = get_logger(__name__)

_POLL_MS = 5_000
"""A poll ends at once when there is news; a long one keeps an idle process idle."""
_CATCH_UP_MS = 1_000
_PAUSE_S = 1.0


class Gates:
    """`following` says whether the copy is kept up to date."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.following = False
        self._gates: dict[str, StoreGate] = {}
        self._consumer: AIOKafkaConsumer = kafka.consumer(settings, fetch_max_wait_ms=_POLL_MS)
        topic = kafka.names(settings).topic(CONTROL)
        self._partitions = [TopicPartition(topic, number) for number in range(CONTROL.partitions)]

    def closed(self, store: str) -> StoreGate | None:
        """The gate that keeps this store out now, if any."""
        return door(self._gates, store)

    async def start(self) -> None:
        """Read what has been said so far, so that no closed door is found open after a restart."""
        await self._consumer.start()
        # The ends first: once assigned, a question would stand in line behind the long poll on the same connection.
        ends = await self._consumer.end_offsets(self._partitions)
        self._consumer.assign(self._partitions)
        # Compaction may leave nothing to read before the end: an empty poll ends this, too.
        while await self._behind(ends) and await self._take(_CATCH_UP_MS):
            pass
        self.following = True

    async def follow(self) -> None:
        """Until cancelled. While Kafka cannot be read, the doors stay as they were last heard of."""
        while True:
            try:
                await self._take(_POLL_MS)
                self.following = True
            except KafkaError as error:
                if self.following:
                    log.error("the gates are not followed", reason=f"{type(error).__name__}: {error}")
                self.following = False
                await asyncio.sleep(_PAUSE_S)

    async def stop(self) -> None:
        self.following = False
        await self._consumer.stop()

    async def _behind(self, ends: dict[TopicPartition, int]) -> bool:
        return any([await self._consumer.position(partition) < end for partition, end in ends.items()])

    async def _take(self, timeout_ms: int) -> int:
        """Take in the next records; how many there were."""
        batches = (await self._consumer.getmany(*self._partitions, timeout_ms=timeout_ms)).values()
        for record in (record for batch in batches for record in batch):
            self._hear(record)
        return sum(map(len, batches))

    def _hear(self, record: ConsumerRecord) -> None:
        store = (record.key or b"").decode(errors="replace")
        if record.value is None:
            self._open(store)
            return
        try:
            gate = kafka.read(record)
        except InvalidMessage as error:
            log.error("a gate cannot be understood: its door stays as it is", reason=str(error))
            return
        if isinstance(gate, StoreGate) and gate.closed:
            log.info("a door closes", store=store, reason=gate.reason)
            self._gates[store] = gate
        else:
            self._open(store)

    def _open(self, store: str) -> None:
        if self._gates.pop(store, None) is not None:
            log.info("a door opens", store=store)
