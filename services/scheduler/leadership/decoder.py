"""Decodes the consumed records and sends unusable ones to the dead letter queue."""

from collections.abc import Mapping
from typing import TypeVar

from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import ConsumerRecord

from services.scheduler.leadership.offset_tracker import Batches
from shared.domain.errors import InvalidMessage
from shared.domain.messages import Message
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.kafka.topics import Topic
from shared.observability.log import get_logger

log = get_logger(__name__)
M = TypeVar("M", bound=Message)

DecodedRecords = list[tuple[ConsumerRecord, Message]]


class RecordDecoder:
    """`topics` maps the consumed topic names to their topics; `group` is named in dead letters."""

    def __init__(
        self, *, source: str, group: str, topics: Mapping[str, Topic], publisher: Publisher
    ) -> None:
        self._source = source
        self._group = group
        self._topics = topics
        self._publisher = publisher

    async def decode_batches(self, batches: Batches) -> DecodedRecords:
        """Decode the records that this process did not publish itself."""
        decoded: DecodedRecords = []
        for record in (record for records in batches.values() for record in records):
            if clients.record_source(record) == self._source:
                continue
            try:
                decoded.append((record, self._decode_record(record)))
            except InvalidMessage as error:
                await self.dead_letter(record, error)
        return decoded

    async def dead_letter(self, record: ConsumerRecord, error: Exception) -> None:
        """Copy the record to the dead letter queue."""
        log.error(
            "record moved to the dead letter queue",
            reason=str(error),
            topic=record.topic,
            offset=record.offset,
        )
        try:
            await self._publisher.publish_dead_letter(record, error, group=self._group)
        except MessageSizeTooLargeError:
            log.error("record too large for the dead letter queue", partition=record.partition)

    def _decode_record(self, record: ConsumerRecord) -> Message:
        message = clients.decode_record(record)
        if not isinstance(message, self._topics[record.topic].messages):
            raise InvalidMessage(
                f"{message.TYPE} does not belong on this topic",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )
        return message


def select_messages(records: DecodedRecords, kind: type[M]) -> list[M]:
    return [message for _, message in records if isinstance(message, kind)]
