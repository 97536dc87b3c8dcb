"""`python -m services.scheduler recover`: replays Kafka after a restore of PostgreSQL.

The consumer groups have committed beyond the backup, so no service reads those requests again. The
recovery reads the topics without moving offsets. It may be repeated: on a database that lost
nothing it changes nothing.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

import asyncpg
from aiokafka.structs import ConsumerRecord

from services.scheduler import messages
from services.scheduler.recovery.rules import (
    Correction,
    RecoverySummary,
    ReportedState,
    SavedState,
    find_correction,
    merge_event,
)
from services.scheduler.repository import UNSTORABLE_ERRORS, Row, insert_requests
from shared.domain.errors import InvalidMessage
from shared.domain.job import Status
from shared.domain.job_events import usage_from_row
from shared.domain.messages import BlogRequested, JobEvent, Message
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.kafka.ranges import read_topic
from shared.kafka.topics import REQUESTS, RESULTS, Topic
from shared.observability.log import get_logger
from shared.runtime.postgres import Connection, load_queries
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)

_QUERIES = load_queries(Path(__file__).parent / "sql" / "recovery.sql")
_BATCH = 500
_RETRY_REASON = "PostgreSQL was restored from a backup"


class DatabaseRecovery:
    """The caller owns `pool` and `publisher`.

    Records that Kafka received before `since` are skipped.
    """

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
        self._reported: dict[UUID, ReportedState] = {}
        self._summary = RecoverySummary()

    async def recover(self) -> RecoverySummary:
        """Read all events, then all requests, correct the rows and return the findings."""
        async for batch in _read_messages(self._settings, RESULTS, self._since):
            for event in batch:
                if isinstance(event, JobEvent):
                    self._merge_event(event)
        async for batch in _read_messages(self._settings, REQUESTS, self._since):
            requests = [message for message in batch if isinstance(message, BlogRequested)]
            await self._restore_requests(requests)
            self._summary.requests += len(requests)
        older = list(self._reported)
        for start in range(0, len(older), _BATCH):
            await self._restore_older_jobs(older[start : start + _BATCH])
        return self._summary

    def _merge_event(self, event: JobEvent) -> None:
        state = merge_event(self._reported.get(event.job), event)
        if state is not None:
            self._reported[event.job] = state

    async def _restore_requests(self, requests: Sequence[BlogRequested]) -> None:
        """Insert missing rows and correct the jobs' states, in one transaction.

        A running scheduler must not see a row without its state. Skips a request that PostgreSQL
        can never store: it is in the dead letter queue already.
        """
        jobs = [request.id for request in requests]
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                missing = await insert_requests(connection, requests)
                corrected = await self._correct_jobs(connection, jobs)
        except UNSTORABLE_ERRORS as error:
            if len(requests) == 1:
                log.warning(
                    "request skipped, PostgreSQL refuses it", job=str(jobs[0]), reason=str(error)
                )
                return
            half = len(requests) // 2
            await self._restore_requests(requests[:half])
            await self._restore_requests(requests[half:])
            return
        self._summary.missing += len(missing)
        await self._publish_requeued(jobs, corrected)

    async def _restore_older_jobs(self, jobs: Sequence[UUID]) -> None:
        """Correct jobs with a request older than the records read. Jobs without a row stay lost."""
        async with self._pool.acquire() as connection, connection.transaction():
            corrected = await self._correct_jobs(connection, jobs)
            rows = await connection.fetch(_QUERIES["saved_states"], jobs)
        self._summary.unknown += len(jobs) - len(rows)
        await self._publish_requeued(jobs, corrected)

    async def _correct_jobs(
        self, connection: Connection, jobs: Sequence[UUID]
    ) -> list[tuple[Correction, Row]]:
        rows = await connection.fetch(
            _QUERIES["saved_states"], [job for job in jobs if job in self._reported]
        )
        found = [
            (row["id"], find_correction(_saved_state(row), self._reported[row["id"]]))
            for row in rows
        ]
        return [
            (correction, await _apply_correction(connection, job, correction))
            for job, correction in found
            if correction is not None
        ]

    async def _publish_requeued(
        self, jobs: Sequence[UUID], corrected: Sequence[tuple[Correction, Row]]
    ) -> None:
        """After the commit: count the corrections and publish the events of the requeued jobs."""
        for job in jobs:
            self._reported.pop(job, None)
        self._summary.count_corrections(correction for correction, _ in corrected)
        await self._publisher.publish_all(
            [
                messages.retry_event(row, error=_RETRY_REASON)
                for _, row in corrected
                if row["status"] == Status.PENDING
            ]
        )


async def _apply_correction(connection: Connection, job: UUID, correction: Correction) -> Row:
    lost = correction.lost_usage
    if lost.cost_nanousd:
        await connection.execute(
            _QUERIES["add_lost_usage"],
            job,
            correction.attempt,
            lost.input_tokens,
            lost.output_tokens,
            lost.images,
            lost.cost_nanousd,
            lost.reasoning_tokens,
        )
    for step in correction.in_doubt:
        await connection.execute(_QUERIES["mark_step_in_doubt"], job, step, correction.attempt)
    row = await connection.fetchrow(
        _QUERIES["correct_job"],
        job,
        correction.status,
        correction.attempt,
        correction.ended_at,
        correction.error,
    )
    assert row is not None, "the transaction holds the row's lock"
    return row


def _saved_state(row: Row) -> SavedState:
    return SavedState(
        attempt=row["attempt"],
        status=Status(row["status"]),
        done=frozenset(row["done"]),
        usage=usage_from_row(row),
    )


async def _read_messages(
    settings: KafkaSettings, topic: Topic, since: datetime | None
) -> AsyncIterator[list[Message]]:
    """Read a topic's messages up to now, in batches.

    Skips unreadable records: they went to the dead letter queue when a service read them first.
    """
    async for records in read_topic(settings, topic, start=since, max_records=_BATCH):
        yield [message for record in records if (message := _decode_or_skip(record)) is not None]


def _decode_or_skip(record: ConsumerRecord) -> Message | None:
    try:
        return clients.decode_record(record)
    except InvalidMessage:
        return None
