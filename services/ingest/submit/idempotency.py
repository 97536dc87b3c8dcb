"""Maps each idempotency key to its first request: the first record on blog.idempotency decides.

Every ingest process keeps a copy of the records. For an unknown key, a process publishes a record
and reads the topic up to it. The topic's order makes all processes see the same first record. No
database is needed.
"""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import NamedTuple, Self
from uuid import UUID

from aiokafka.structs import ConsumerRecord

from shared.domain.errors import InvalidMessage
from shared.domain.messages import IdempotencyRecord
from shared.kafka import clients
from shared.kafka.follower import TopicFollower
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import IDEMPOTENCY
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_TIMESTAMP = Struct(">d")
_VALID_FOR = timedelta(milliseconds=IDEMPOTENCY.retention_ms)


class FirstRequest(NamedTuple):
    """The stored part of a key's first record.

    A process may hold a million of them. Packed as bytes, they take half the memory of objects and
    add nothing to the garbage collector's work.
    """

    fingerprint: str
    at: datetime

    def pack(self) -> bytes:
        return _TIMESTAMP.pack(self.at.timestamp()) + self.fingerprint.encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        (at,) = _TIMESTAMP.unpack_from(packed)
        return cls(packed[_TIMESTAMP.size :].decode(), datetime.fromtimestamp(at, UTC))


class IdempotencyIndex:
    def __init__(self, settings: KafkaSettings, publisher: Publisher, *, timeout_s: float) -> None:
        self.follower = TopicFollower(settings, IDEMPOTENCY, self._apply_record)
        self._publisher = publisher
        self._timeout_s = timeout_s
        self._first_requests: dict[bytes, bytes] = {}
        """Packed first requests by job id, oldest first."""
        self._waiting: defaultdict[UUID, set[asyncio.Future[None]]] = defaultdict(set)

    def find_first_request(self, job: UUID, now: datetime) -> FirstRequest | None:
        """Return the key's first request as far as this process has read, unless it has expired."""
        packed = self._first_requests.get(job.bytes)
        if packed is None:
            return None
        first = FirstRequest.unpack(packed)
        return first if now - first.at < _VALID_FOR else None

    async def register_key(self, record: IdempotencyRecord) -> FirstRequest:
        """Return the key's first request: this one or an earlier one.

        Raises KafkaError or TimeoutError.
        """
        first = self.find_first_request(record.job, record.at)
        if first is not None:
            return first
        applied = asyncio.get_running_loop().create_future()
        self._waiting[record.job].add(applied)
        try:
            async with asyncio.timeout(self._timeout_s):
                outgoing = OutgoingMessage(topic=IDEMPOTENCY, key=record.store, message=record)
                await self._publisher.publish(outgoing, timeout=self._timeout_s)
                await applied
        finally:
            self._waiting[record.job].discard(applied)
            if not self._waiting[record.job]:
                del self._waiting[record.job]
        return FirstRequest.unpack(self._first_requests[record.job.bytes])

    def _apply_record(self, consumed: ConsumerRecord) -> None:
        try:
            record = clients.decode_record(consumed)
        except InvalidMessage as error:
            log.error("idempotency record invalid, skipped", reason=str(error))
            return
        if not isinstance(record, IdempotencyRecord):
            return
        if self.find_first_request(record.job, record.at) is None:
            self._first_requests.pop(record.job.bytes, None)
            first = FirstRequest(record.fingerprint, record.at)
            self._first_requests[record.job.bytes] = first.pack()
            self._remove_expired(record.at)
        for applied in self._waiting.get(record.job, ()):
            if not applied.done():
                applied.set_result(None)

    def _remove_expired(self, now: datetime) -> None:
        """Remove the expired requests at the front."""
        requests = self._first_requests
        while now - FirstRequest.unpack(requests[oldest := next(iter(requests))]).at >= _VALID_FOR:
            del requests[oldest]
