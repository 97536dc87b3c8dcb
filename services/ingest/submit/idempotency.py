"""Which request an Idempotency-Key stands for: the first claim in blog.idempotency, by the log's own order.

Every ingest process has a copy of the claims. Who meets a key that it does not know writes a claim and reads the log
up to it: of several claims, through however many processes, all see the same first one. No database is needed.
"""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import NamedTuple, Self
from uuid import UUID

from aiokafka.structs import ConsumerRecord

from shared.domain.errors import InvalidMessage
from shared.domain.messages import IdempotencyClaim
from shared.kafka import clients
from shared.kafka.follower import TopicFollower
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import IDEMPOTENCY
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_AT = Struct(">d")
KEPT = timedelta(milliseconds=IDEMPOTENCY.retention_ms)


class Claimed(NamedTuple):
    """What is kept of a claim. There may be a million of them: as bytes they take half the room of objects, and do not
    lie between all that comes and goes with every request."""

    fingerprint: str
    at: datetime

    def packed(self) -> bytes:
        return _AT.pack(self.at.timestamp()) + self.fingerprint.encode()

    @classmethod
    def unpacked(cls, kept: bytes) -> Self:
        (at,) = _AT.unpack_from(kept)
        return cls(kept[_AT.size :].decode(), datetime.fromtimestamp(at, UTC))


class Claims:
    def __init__(self, settings: KafkaSettings, publisher: Publisher, *, timeout_s: float) -> None:
        self.copy = TopicFollower(settings, IDEMPOTENCY, self._hear)
        self._publisher = publisher
        self._timeout_s = timeout_s
        self._first: dict[bytes, bytes] = {}
        """Packed, by the job that the key names; the oldest stand at the front."""
        self._waiting: defaultdict[UUID, set[asyncio.Future[None]]] = defaultdict(set)

    def known(self, job: UUID, now: datetime) -> Claimed | None:
        """The claim that this process has read, unless it is too old to count."""
        kept = self._first.get(job.bytes)
        if kept is None:
            return None
        claimed = Claimed.unpacked(kept)
        return claimed if now - claimed.at < KEPT else None

    async def first(self, claim: IdempotencyClaim) -> Claimed:
        """The claim that counts: this one, or one before it. Raises KafkaError or TimeoutError."""
        known = self.known(claim.job, claim.at)
        if known is not None:
            return known
        heard = asyncio.get_running_loop().create_future()
        self._waiting[claim.job].add(heard)
        try:
            async with asyncio.timeout(self._timeout_s):
                outgoing = OutgoingMessage(topic=IDEMPOTENCY, key=claim.store, message=claim)
                await self._publisher.publish(outgoing, timeout=self._timeout_s)
                await heard
        finally:
            self._waiting[claim.job].discard(heard)
            if not self._waiting[claim.job]:
                del self._waiting[claim.job]
        return Claimed.unpacked(self._first[claim.job.bytes])

    def _hear(self, record: ConsumerRecord) -> None:
        try:
            claim = clients.decode_record(record)
        except InvalidMessage as error:
            log.error("a claim cannot be understood: it is passed over", reason=str(error))
            return
        if not isinstance(claim, IdempotencyClaim):
            return
        if self.known(claim.job, claim.at) is None:
            self._first.pop(claim.job.bytes, None)
            self._first[claim.job.bytes] = Claimed(claim.fingerprint, claim.at).packed()
            self._forget(claim.at)
        for heard in self._waiting.get(claim.job, ()):
            if not heard.done():
                heard.set_result(None)

    def _forget(self, now: datetime) -> None:
        """Drop the claims at the front that no longer count."""
        while now - Claimed.unpacked(self._first[oldest := next(iter(self._first))]).at >= KEPT:
            del self._first[oldest]
