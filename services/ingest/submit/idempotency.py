"""Maps each idempotency key to its first request: the first claim on blog.idempotency decides.

Every ingest process keeps a copy of the claims. For an unknown key, a process publishes a claim and
reads the topic up to it. The topic's order makes all processes see the same first claim. No
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
from shared.domain.messages import IdempotencyClaim
from shared.kafka import clients
from shared.kafka.follower import TopicFollower
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import IDEMPOTENCY
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_TIMESTAMP = Struct(">d")
_VALID_FOR = timedelta(milliseconds=IDEMPOTENCY.retention_ms)


class FirstClaim(NamedTuple):
    """The stored part of a claim.

    A process may hold a million claims. Packed as bytes, they take half the memory of objects and
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
        self._claims: dict[bytes, bytes] = {}
        """Packed first claims by job id, oldest first."""
        self._waiting: defaultdict[UUID, set[asyncio.Future[None]]] = defaultdict(set)

    def get_claim(self, job: UUID, now: datetime) -> FirstClaim | None:
        """Return the first claim that this process has read, unless it has expired."""
        packed = self._claims.get(job.bytes)
        if packed is None:
            return None
        claim = FirstClaim.unpack(packed)
        return claim if now - claim.at < _VALID_FOR else None

    async def claim(self, claim: IdempotencyClaim) -> FirstClaim:
        """Return the first claim of the job: this one or an earlier one.

        Raises KafkaError or TimeoutError.
        """
        first = self.get_claim(claim.job, claim.at)
        if first is not None:
            return first
        applied = asyncio.get_running_loop().create_future()
        self._waiting[claim.job].add(applied)
        try:
            async with asyncio.timeout(self._timeout_s):
                outgoing = OutgoingMessage(topic=IDEMPOTENCY, key=claim.store, message=claim)
                await self._publisher.publish(outgoing, timeout=self._timeout_s)
                await applied
        finally:
            self._waiting[claim.job].discard(applied)
            if not self._waiting[claim.job]:
                del self._waiting[claim.job]
        return FirstClaim.unpack(self._claims[claim.job.bytes])

    def _apply_record(self, record: ConsumerRecord) -> None:
        try:
            claim = clients.decode_record(record)
        except InvalidMessage as error:
            log.error("idempotency claim invalid, skipped", reason=str(error))
            return
        if not isinstance(claim, IdempotencyClaim):
            return
        if self.get_claim(claim.job, claim.at) is None:
            self._claims.pop(claim.job.bytes, None)
            self._claims[claim.job.bytes] = FirstClaim(claim.fingerprint, claim.at).pack()
            self._remove_expired(claim.at)
        for applied in self._waiting.get(claim.job, ()):
            if not applied.done():
                applied.set_result(None)

    def _remove_expired(self, now: datetime) -> None:
        """Remove the expired claims at the front."""
        while now - FirstClaim.unpack(self._claims[oldest := next(iter(self._claims))]).at >= (
            _VALID_FOR
        ):
            del self._claims[oldest]
