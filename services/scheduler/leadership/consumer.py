"""The thin shell: one consumer over requests, results and reports. Leads while the group gives it the partitions.

What goes wrong in a turn (PostgreSQL or Kafka away, a deposed epoch) ends the term: said once, the records of the
turn count as unread, and when both answer again a new term begins. Everything read twice changes nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.scheduler.dispatch.rules import WorkerCredit
from services.scheduler.leadership.assignor import LeadershipClaim, single_owner_assignor
from services.scheduler.leadership.offset_tracker import Batches, OffsetTracker, rewind_batches
from services.scheduler.leadership.session import LeaderSession
from services.scheduler.repository import DeposedError, SchedulerRepository
from services.scheduler.settings import SchedulerSettings
from shared.domain.errors import InvalidMessage
from shared.domain.messages import BlogRequested, JobEvent, Message, WorkerReport
from shared.kafka import clients
from shared.kafka.access import check_reachable
from shared.kafka.publisher import Publisher
from shared.kafka.topics import REQUESTS, RESULTS, SCHEDULER_GROUP, WORKERS
from shared.observability.log import get_logger
from shared.runtime.lifecycle import wait_for_event
from shared.runtime.postgres import UNAVAILABLE_ERRORS

log = get_logger(__name__)
M = TypeVar("M", bound=Message)
Heard = list[tuple[ConsumerRecord, Message]]

_TICK_S = 1.0
_PAUSE_S = 1.0
_STANDBY_MS = 1_000
_RECORDS_A_TURN = 500


class SchedulerConsumer:
    """Runs until told to stop. `store` and `publisher` are started and belong to the caller."""

    def __init__(
        self, *, name: str, settings: SchedulerSettings, store: SchedulerRepository, publisher: Publisher
    ) -> None:
        self._name = name
        self._settings = settings
        self._store = store
        self._publisher = publisher
        self._group = clients.namespace(settings).group(SCHEDULER_GROUP)
        self._tenure = LeadershipClaim()
        self._elected: bool | None = None
        """None: not known, for the group is electing."""
        self._credit = WorkerCredit(silence_s=settings.worker_silence_s)
        self._term: LeaderSession | None = None
        self._busy = asyncio.Lock()
        """Held while records are worked on: who loses the election finishes these, and commits them, first."""
        self._progress = OffsetTracker()
        self._ticked_at = self._swept_at = 0.0
        reads = zip(
            clients.topic_names(settings, (REQUESTS, RESULTS, WORKERS)),
            (REQUESTS, RESULTS, WORKERS),
            strict=True,
        )
        self._topics = dict(reads)

    async def run(self, stop: asyncio.Event) -> None:
        consumer = clients.create_consumer(
            self._settings,
            group_id=self._group,
            client_id=self._name,
            partition_assignment_strategy=[single_owner_assignor(self._tenure)],
        )
        consumer.subscribe(
            list(self._topics), listener=_Election(self._assigned, lambda: self._revoked(consumer))
        )
        await consumer.start()
        log.info("scheduler started", group=self._group)
        try:
            while not stop.is_set():
                await self._guarded_turn(consumer, stop)
            await self._revoked(consumer)
        finally:
            await consumer.stop()
        log.info("scheduler stopped")

    async def _guarded_turn(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        try:
            await self._turn(consumer)
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError, KafkaError, DeposedError) as error:
            log.error("scheduling pauses", reason=f"{type(error).__name__}: {error}")
            await self._drop_term(consumer)
            while not stop.is_set() and not await self._recovered():
                await wait_for_event(stop, _PAUSE_S)
                rewind_batches(
                    consumer, await _poll(consumer)
                )  # who does not poll is expelled from the group
            log.info("scheduling goes on")

    async def _recovered(self) -> bool:
        """Whether both PostgreSQL and Kafka answer."""
        try:
            await self._store.epoch()
            await check_reachable(self._settings)
        except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError, KafkaError):
            return False
        return True

    async def _turn(self, consumer: AIOKafkaConsumer) -> None:
        if not self._elected:
            # A standby polls to stay in the group. What it is given, it was elected for while it waited.
            rewind_batches(consumer, await consumer.getmany(timeout_ms=_STANDBY_MS))
            return
        term = self._term or await self._begin_term(consumer)
        batches = await self._read_some(consumer, self._patience_ms(term))
        async with self._busy:
            if term is not self._term:  # an election while we waited
                rewind_batches(consumer, batches)
                return
            self._progress.began(batches)
            await self._handle(term, batches)
            self._progress.done(batches)
            await self._tick(consumer, term)
            term.keep_forwarding()

    async def _read_some(self, consumer: AIOKafkaConsumer, patience_ms: int) -> Batches:
        """The next records. Results and reports do not wait behind a flood of requests that was fetched before them."""
        batches: dict[TopicPartition, list[ConsumerRecord]]
        batches = await consumer.getmany(timeout_ms=patience_ms, max_records=_RECORDS_A_TURN)
        urgent = [
            partition
            for partition in consumer.assignment()
            if self._topics[partition.topic] is not REQUESTS
        ]
        if batches and urgent:
            try:
                more = await consumer.getmany(*urgent, max_records=_RECORDS_A_TURN)
            except KafkaError:
                rewind_batches(consumer, batches)
                raise
            for partition, records in more.items():
                batches.setdefault(partition, []).extend(records)
        return batches

    async def _begin_term(self, consumer: AIOKafkaConsumer) -> LeaderSession:
        term = self._term = LeaderSession(
            name=self._name,
            settings=self._settings,
            store=self._store,
            publisher=self._publisher,
            credit=self._credit,
        )
        await term.begin()
        await self._skip_old_reports(consumer)
        return term

    async def _skip_old_reports(self, consumer: AIOKafkaConsumer) -> None:
        """Reports are of use only while they are fresh, however many were written while nobody led."""
        reports = [
            partition
            for partition in consumer.assignment()
            if self._topics[partition.topic] is WORKERS
        ]
        fresh_ms = int((time.time() - self._settings.worker_silence_s) * 1000)
        found = (
            await consumer.offsets_for_times(dict.fromkeys(reports, fresh_ms)) if reports else {}
        )
        for partition, first in found.items():
            if partition not in consumer.assignment():
                return
            if first is not None:
                consumer.seek(partition, first.offset)
            else:
                await consumer.seek_to_end(partition)

    async def _handle(self, term: LeaderSession, batches: Batches) -> None:
        heard: Heard = []
        for record in (record for records in batches.values() for record in records):
            if clients.record_source(record) == self._name:
                continue  # what it said itself is no news
            try:
                heard.append((record, self._read(record)))
            except InvalidMessage as error:
                await self._put_aside(record, error)
        term.hear(_only(heard, WorkerReport))
        await self._admit(term, heard)
        await term.settle(_only(heard, JobEvent))
        await term.say_doors()

    async def _admit(self, term: LeaderSession, heard: Heard) -> None:
        refused = await term.admit(_only(heard, BlogRequested))
        reasons = {id(request): reason for request, reason in refused}
        for record, message in heard:
            if id(message) in reasons:
                await self._put_aside(record, reasons[id(message)])

    def _read(self, record: ConsumerRecord) -> Message:
        message = clients.decode_record(record)
        if not isinstance(message, self._topics[record.topic].messages):
            raise InvalidMessage(
                f"{message.TYPE} does not belong on this topic",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
            )
        return message

    async def _put_aside(self, record: ConsumerRecord, error: Exception) -> None:
        log.error(
            "a record is put aside", reason=str(error), topic=record.topic, offset=record.offset
        )
        try:
            await self._publisher.dead_letter(record, error, group=self._group)
        except MessageSizeTooLargeError:
            log.error(
                "it is too large to be put aside: it stays where it is", partition=record.partition
            )

    async def _tick(self, consumer: AIOKafkaConsumer, term: LeaderSession) -> None:
        now = time.monotonic()
        if now - self._swept_at >= self._settings.sweep_every_s:
            self._swept_at = now
            await term.sweep()
        if now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            await term.heed_budgets()
            await term.save_lifts()
            await self._commit(consumer, term)
            await term.look()
            await term.report()
            if term.counts:
                log.info("scheduled", **term.counts)
                term.counts.clear()

    def _patience_ms(self, term: LeaderSession) -> int:
        """How long to wait for records: until the next tick, or until a delayed job is due."""
        tick = max(self._ticked_at + _TICK_S - time.monotonic(), 0.01)
        due = term.next_due()
        return int(1000 * (tick if due is None else min(tick, max(due - time.time(), 0.01))))

    async def _commit(self, consumer: AIOKafkaConsumer, term: LeaderSession) -> None:
        await term.flush()
        await self._progress.commit(consumer)

    async def _drop_term(self, consumer: AIOKafkaConsumer) -> None:
        term, self._term = self._term, None
        if term is not None:
            await term.abandon()
        self._progress.rewind(consumer)

    def _assigned(self, partitions: Sequence[TopicPartition]) -> None:
        stood_by = self._elected is False
        self._elected = bool(partitions)
        if self._elected:
            self._tenure.begin()
            return
        self._tenure.end()
        if not stood_by:
            log.info("this scheduler stands by")

    async def _revoked(self, consumer: AIOKafkaConsumer) -> None:
        """Before a rebalance: commit what was handled. Who leads next rebuilds the order, be it this process again."""
        term, self._term = self._term, None
        self._elected = None
        if term is None:
            return
        term.end()
        async with self._busy:
            try:
                await term.save_lifts()
                await self._commit(consumer, term)
            except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError, KafkaError, DeposedError) as error:
                log.warning(
                    "could not commit: some records will be read again",
                    reason=f"{type(error).__name__}: {error}",
                )
            self._progress.forget()


class _Election(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types
    def __init__(
        self,
        assigned: Callable[[Sequence[TopicPartition]], None],
        revoked: Callable[[], Awaitable[None]],
    ) -> None:
        self._assigned = assigned
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        if revoked:
            await self._revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._assigned(list(assigned))


def _only(heard: Heard, kind: type[M]) -> list[M]:
    return [message for _, message in heard if isinstance(message, kind)]


async def _poll(consumer: AIOKafkaConsumer) -> Batches:
    try:
        batches: Batches = await consumer.getmany(timeout_ms=1)
    except KafkaError:
        return {}  # what is wrong was said; the next turn meets it again if it lasts
    return batches
