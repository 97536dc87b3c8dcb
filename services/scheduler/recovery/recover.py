"""`python -m services.scheduler recover`: after a restore of PostgreSQL, brings back what Kafka still knows.

Consumer groups have committed beyond the backup, so nobody would read those requests again. This reads the topics
itself, moves no offsets, and may be repeated: on a database that lost nothing it changes nothing.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.scheduler.recovery import rules
from services.scheduler.recovery.rules import Correction, SavedState, RecoverySummary, ReportedState
from services.scheduler.repository import UNSTORABLE_ERRORS, Row, insert_requests
from shared.domain.errors import InvalidMessage
from shared.domain.job import Status
from shared.domain.messages import BlogRequested, EventKind, JobEvent, Message, Usage
from shared.kafka import clients
from shared.kafka.publisher import Outgoing, Publisher
from shared.kafka.topics import REQUESTS, RESULTS, Topic
from shared.observability.log import get_logger
from shared.runtime.postgres import Connection, load_queries
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_QUERIES = load_queries(Path(__file__).parent / "sql" / "recovery.sql")
_BATCH = 500
_WHY = "PostgreSQL was restored from a backup"


class Recovery:
    """Everything belongs to the caller. `since` leaves out what Kafka took before that time."""

    def __init__(
        self,
        settings: KafkaSettings,
        pool: asyncpg.Pool,
        publisher: Publisher,
        *,
        since: datetime | None = None,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._publisher = publisher
        self._since = since
        self._words: dict[UUID, ReportedState] = {}
        self.tally = RecoverySummary()

    async def run(self) -> RecoverySummary:
        """Read all that was said, then all that was asked for, and correct the rows. What was found."""
        async for messages in _said(self._settings, RESULTS, self._since):
            for event in messages:
                if isinstance(event, JobEvent):
                    self._hear(event)
        async for messages in _said(self._settings, REQUESTS, self._since):
            requests = [message for message in messages if isinstance(message, BlogRequested)]
            await self._restore(requests)
            self.tally.requests += len(requests)
        elder = list(self._words)
        for start in range(0, len(elder), _BATCH):
            await self._restore_elder(elder[start : start + _BATCH])
        return self.tally

    def _hear(self, event: JobEvent) -> None:
        word = rules.merge_event(self._words.get(event.job), event)
        if word is not None:
            self._words[event.job] = word

    async def _restore(self, requests: Sequence[BlogRequested]) -> None:
        """Rows for requests that have none, and what was said of these jobs, both or neither: a scheduler that runs
        must not find one without the other. A request that no database takes lies with the dead letters already."""
        jobs = [request.id for request in requests]
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                missing = await insert_requests(connection, requests)
                corrected = await self._correct(connection, jobs)
        except UNSTORABLE_ERRORS as error:
            if len(requests) == 1:
                log.warning(
                    "passed over: PostgreSQL refuses it", job=str(jobs[0]), reason=str(error)
                )
                return
            half = len(requests) // 2
            await self._restore(requests[:half])
            await self._restore(requests[half:])
            return
        self.tally.missing += len(missing)
        await self._tell(jobs, corrected)

    async def _restore_elder(self, jobs: Sequence[UUID]) -> None:
        """Jobs whose requests are older than what was read: without a row, nothing can be done for them."""
        async with self._pool.acquire() as connection, connection.transaction():
            corrected = await self._correct(connection, jobs)
            rows = await connection.fetch(_QUERIES["known"], jobs)
        self.tally.unknown += len(jobs) - len(rows)
        await self._tell(jobs, corrected)

    async def _correct(
        self, connection: Connection, jobs: Sequence[UUID]
    ) -> list[tuple[Correction, Row]]:
        rows = await connection.fetch(
            _QUERIES["known"], [job for job in jobs if job in self._words]
        )
        judged = [(row["id"], rules.find_correction(_known(row), self._words[row["id"]])) for row in rows]
        return [
            (right, await _apply(connection, job, right))
            for job, right in judged
            if right is not None
        ]

    async def _tell(
        self, jobs: Sequence[UUID], corrected: Sequence[tuple[Correction, Row]]
    ) -> None:
        """Now that it is true: count it, and say what has returned to the queue."""
        for job in jobs:
            self._words.pop(job, None)
        self.tally.count(correction for correction, _ in corrected)
        await self._publisher.publish_all(
            [_asked_again(row) for _, row in corrected if row["status"] == Status.PENDING]
        )


async def _apply(connection: Connection, job: UUID, correction: Correction) -> Row:
    bill = correction.bill
    if bill.cost_nanousd:
        await connection.execute(
            _QUERIES["bill"],
            job,
            correction.attempt,
            bill.input_tokens,
            bill.output_tokens,
            bill.images,
            bill.cost_nanousd,
        )
    for step in correction.doubted:
        await connection.execute(_QUERIES["doubt"], job, step, correction.attempt)
    row = await connection.fetchrow(
        _QUERIES["correct"],
        job,
        correction.status,
        correction.attempt,
        correction.ended_at,
        correction.error,
    )
    assert row is not None, "it is locked"
    return row


def _known(row: Row) -> SavedState:
    return SavedState(
        attempt=row["attempt"],
        status=Status(row["status"]),
        done=frozenset(row["done"]),
        usage=_usage(row),
    )


def _usage(row: Row) -> Usage:
    return Usage(
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        images=row["images"],
        cost_nanousd=row["cost_nanousd"],
    )


def _asked_again(row: Row) -> Outgoing:
    event = JobEvent(
        job=row["id"],
        store=row["store"],
        kind=EventKind.RETRY,
        status=Status.PENDING,
        attempt=row["attempt"],
        at=datetime.now(UTC),
        created_at=row["created_at"],
        worker=row["worker"],
        usage=_usage(row),
        error=_WHY,
    )
    return Outgoing(topic=RESULTS, key=row["store"], message=event)


async def _said(
    settings: KafkaSettings, topic: Topic, since: datetime | None
) -> AsyncIterator[list[Message]]:
    """A topic's messages up to now, in batches; what cannot be understood was put aside when it was read first."""
    name = clients.namespace(settings).topic(topic)
    partitions = [TopicPartition(name, number) for number in range(topic.partitions)]
    async with clients.create_consumer(settings) as consumer:
        ends = await consumer.end_offsets(partitions)
        starts = await consumer.beginning_offsets(partitions)
        if since is not None:
            found = await consumer.offsets_for_times(
                dict.fromkeys(partitions, int(since.timestamp() * 1000))
            )
            starts = {
                partition: first.offset if first else ends[partition]
                for partition, first in found.items()
            }
        consumer.assign(partitions)
        for partition, start in starts.items():
            consumer.seek(partition, start)
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            batches = (await consumer.getmany(timeout_ms=500, max_records=_BATCH)).values()
            yield [
                message
                for batch in batches
                for record in batch
                if (message := _read(record)) is not None
            ]


def _read(record: ConsumerRecord) -> Message | None:
    try:
        return clients.decode_record(record)
    except InvalidMessage:
        return None
