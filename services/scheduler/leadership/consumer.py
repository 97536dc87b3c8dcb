"""Consumes requests, results and worker reports while the group assigns the partitions.

A failure (PostgreSQL or Kafka unavailable, a deposed epoch) ends the leader session. The consumer
logs it once and rewinds the records of the turn. When PostgreSQL and Kafka answer again, a new
session begins. Processing a record twice changes nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.scheduler.dispatch.rules import WorkerCreditTracker
from services.scheduler.leadership.assignor import LeadershipClaim, single_owner_assignor
from services.scheduler.leadership.begin import begin_session
from services.scheduler.leadership.decoder import DecodedRecords, RecordDecoder, select_messages
from services.scheduler.leadership.offset_tracker import Batches, OffsetTracker, rewind_batches
from services.scheduler.leadership.session import LeaderSession
from services.scheduler.repository import DeposedError, EpochRepository
from services.scheduler.settings import SchedulerSettings
from shared.domain.messages import BlogRequested, JobEvent, WorkerReport
from shared.kafka import clients
from shared.kafka.access import check_reachable
from shared.kafka.publisher import Publisher
from shared.kafka.topics import REQUESTS, RESULTS, SCHEDULER_GROUP, WORKERS
from shared.observability.log import get_logger
from shared.runtime.lifecycle import wait_for_event
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)

_TOPICS = (REQUESTS, RESULTS, WORKERS)
_DEPENDENCY_ERRORS = (*UNAVAILABLE_ERRORS, asyncpg.PostgresError, KafkaError)
_TICK_S = 1.0
_RETRY_S = 1.0
_LEADER_POLL_S = 0.25
"""A leader notices a stop after so long at the latest."""
_STANDBY_POLL_S = 1.0
_SESSION_S = 8.0
"""A busy process may send no heartbeat for 7.5 s. With the clients' defaults (a session of 10 s, a
heartbeat every 3 s) it may for 7 s, and an election takes up to four seconds longer."""
_HEARTBEAT_S = 0.5
"""A standby learns of an election with its next heartbeat."""
_FETCH_MS = 100
"""A fetch without records delays the other requests of a new leader by so long at the most."""
_RECORDS_PER_TURN = 500


class SchedulerConsumer:
    """The main loop of a scheduler. The caller starts and stops `epochs`' pool and `publisher`."""

    def __init__(
        self,
        *,
        name: str,
        settings: SchedulerSettings,
        epochs: EpochRepository,
        publisher: Publisher,
    ) -> None:
        self._name = name
        self._settings = settings
        self._epochs = epochs
        self._publisher = publisher
        self._group = clients.namespace(settings).group(SCHEDULER_GROUP)
        self._topics = dict(zip(clients.topic_names(settings, _TOPICS), _TOPICS, strict=True))
        self._decoder = RecordDecoder(
            source=name, group=self._group, topics=self._topics, publisher=publisher
        )
        self._claim = LeadershipClaim()
        self._is_leader: bool | None = None
        """`None` during an election."""
        self._elected = asyncio.Event()
        self._elections = 0
        self._credit = WorkerCreditTracker(silence_s=settings.worker_silence_s)
        self._session: LeaderSession | None = None
        self._turn_lock = asyncio.Lock()
        """Held while records are processed: a deposed leader finishes and commits them first."""
        self._offsets = OffsetTracker()
        self._ticked_at = self._swept_at = 0.0

    async def run_until_stopped(self, stop: asyncio.Event) -> None:
        consumer = clients.create_consumer(
            self._settings,
            group_id=self._group,
            client_id=self._name,
            partition_assignment_strategy=[single_owner_assignor(self._claim)],
            session_timeout_ms=int(_SESSION_S * 1_000),
            heartbeat_interval_ms=int(_HEARTBEAT_S * 1_000),
            fetch_max_wait_ms=_FETCH_MS,
        )
        listener = _ElectionListener(
            self._apply_assignment, lambda: self._handle_revocation(consumer)
        )
        consumer.subscribe(list(self._topics), listener=listener)
        await consumer.start()
        log.info("scheduler started", group=self._group)
        try:
            while not stop.is_set():
                await self._run_guarded_turn(consumer, stop)
            await self._handle_revocation(consumer)
        finally:
            await consumer.stop()
        log.info("scheduler stopped")

    async def _run_guarded_turn(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        try:
            await self._run_turn(consumer)
        except (*_DEPENDENCY_ERRORS, DeposedError) as error:
            deposed = isinstance(error, DeposedError)
            event = (
                "leader session deposed, retrying"
                if deposed
                else "dependency unavailable, retrying"
            )
            log.error(event, reason=_describe_error(error))
            await self._abandon_session(consumer)
            while not stop.is_set() and not await self._dependencies_available():
                await wait_for_event(stop, _RETRY_S)
                # The group expels a member that does not poll.
                rewind_batches(consumer, await _poll_once(consumer))
            log.info(
                "scheduler resumes after deposed session"
                if deposed
                else "dependencies available again"
            )

    async def _dependencies_available(self) -> bool:
        """Return whether both PostgreSQL and Kafka answer."""
        try:
            await self._epochs.fetch_epoch()
            await check_reachable(self._settings)
        except _DEPENDENCY_ERRORS:
            return False
        return True

    async def _run_turn(self, consumer: AIOKafkaConsumer) -> None:
        if not self._is_leader:
            # A standby polls to stay in the group. Records arrive only if it was elected meanwhile.
            rewind_batches(consumer, await consumer.getmany(timeout_ms=1))
            await wait_for_event(self._elected, _STANDBY_POLL_S)
            return
        session = self._session or await self._begin_session(consumer)
        batches = await self._read_batches(consumer, self._poll_timeout_ms(session))
        async with self._turn_lock:
            if session is not self._session:  # an election ended the session
                rewind_batches(consumer, batches)
                return
            self._offsets.record_read(batches)
            await self._process_batches(session, batches)
            self._offsets.record_processed(batches)
            await self._run_due_tasks(consumer, session)
            session.start_dispatch()

    async def _read_batches(self, consumer: AIOKafkaConsumer, timeout_ms: int) -> Batches:
        """Return the next records. Results and reports do not wait behind a flood of requests."""
        batches: dict[TopicPartition, list[ConsumerRecord]]
        batches = await consumer.getmany(timeout_ms=timeout_ms, max_records=_RECORDS_PER_TURN)
        urgent = [
            partition
            for partition in consumer.assignment()
            if self._topics[partition.topic] is not REQUESTS
        ]
        if batches and urgent:
            try:
                more = await consumer.getmany(*urgent, max_records=_RECORDS_PER_TURN)
            except KafkaError:
                rewind_batches(consumer, batches)
                raise
            for partition, records in more.items():
                batches.setdefault(partition, []).extend(records)
        return batches

    async def _begin_session(self, consumer: AIOKafkaConsumer) -> LeaderSession:
        """Begin a leader session. An election during the restore discards it."""
        election = self._elections
        session = await begin_session(
            name=self._name,
            settings=self._settings,
            epochs=self._epochs,
            publisher=self._publisher,
            credit=self._credit,
        )
        await self._skip_old_reports(consumer)
        if election == self._elections:
            self._session = session
        return session

    async def _skip_old_reports(self, consumer: AIOKafkaConsumer) -> None:
        """Skip worker reports older than `worker_silence_s`: they give no credit."""
        partitions = [
            partition
            for partition in consumer.assignment()
            if self._topics[partition.topic] is WORKERS
        ]
        if not partitions:
            return
        fresh_ms = int((time.time() - self._settings.worker_silence_s) * 1000)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, fresh_ms))
        for partition, first in found.items():
            if partition not in consumer.assignment():
                return
            if first is not None:
                consumer.seek(partition, first.offset)
            else:
                await consumer.seek_to_end(partition)

    async def _process_batches(self, session: LeaderSession, batches: Batches) -> None:
        records = await self._decoder.decode_batches(batches)
        await session.apply_worker_reports(select_messages(records, WorkerReport))
        await self._admit_requests(session, records)
        await session.apply_job_events(select_messages(records, JobEvent))
        await session.publish_admission_states()

    async def _admit_requests(self, session: LeaderSession, records: DecodedRecords) -> None:
        refused = await session.admit_requests(select_messages(records, BlogRequested))
        reasons = {id(request): reason for request, reason in refused}
        for record, message in records:
            if id(message) in reasons:
                await self._decoder.dead_letter(record, reasons[id(message)])

    async def _run_due_tasks(self, consumer: AIOKafkaConsumer, session: LeaderSession) -> None:
        """Run the sweep and the once-a-second tasks when they are due."""
        now = time.monotonic()
        if now - self._swept_at >= self._settings.sweep_every_s:
            self._swept_at = now
            await session.sweep()
        if now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            await session.reclaim_jobs_of_dead_workers()
            await session.refresh_changed_budgets()
            await session.save_counters()
            await self._commit_offsets(consumer, session)
            await session.publish_status()

    def _poll_timeout_ms(self, session: LeaderSession) -> int:
        """Return how long to wait for records: until the next tick or the next delayed job."""
        wait_s = min(self._ticked_at + _TICK_S - time.monotonic(), _LEADER_POLL_S)
        due_at = session.next_due_at()
        if due_at is not None:
            wait_s = min(wait_s, due_at - time.time())
        return int(1000 * max(wait_s, 0.01))

    async def _commit_offsets(self, consumer: AIOKafkaConsumer, session: LeaderSession) -> None:
        await session.flush_messages()
        await self._offsets.commit_offsets(consumer)

    async def _abandon_session(self, consumer: AIOKafkaConsumer) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.abandon_session()
        self._offsets.rewind_offsets(consumer)

    def _apply_assignment(self, partitions: Sequence[TopicPartition]) -> None:
        was_standby = self._is_leader is False
        self._is_leader = bool(partitions)
        if self._is_leader:
            self._claim.begin()
            self._elected.set()
            return
        self._claim.end()
        if not was_standby:
            log.info("scheduler is standby")

    async def _handle_revocation(self, consumer: AIOKafkaConsumer) -> None:
        """Before a rebalance: end the session and commit the processed records.

        The next leader restores the fair queue, even if it is this process again.
        """
        session, self._session = self._session, None
        self._is_leader = None
        self._elected.clear()
        self._elections += 1
        if session is None:
            return
        session.stop_dispatch()
        async with self._turn_lock:
            try:
                await session.save_counters()
                await self._commit_offsets(consumer, session)
            except (*_DEPENDENCY_ERRORS, DeposedError) as error:
                log.warning(
                    "offsets not committed",
                    consequence="records will be read again",
                    reason=_describe_error(error),
                )
            self._offsets.clear_offsets()


class _ElectionListener(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types
    def __init__(
        self,
        on_assigned: Callable[[Sequence[TopicPartition]], None],
        on_revoked: Callable[[], Awaitable[None]],
    ) -> None:
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        if revoked:
            await self._on_revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._on_assigned(list(assigned))


async def _poll_once(consumer: AIOKafkaConsumer) -> Batches:
    """Poll, and ignore Kafka's errors: the next turn meets them again if they last."""
    try:
        batches: Batches = await consumer.getmany(timeout_ms=1)
    except KafkaError:
        return {}
    return batches


def _describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
