"""The thin shell: one consumer over requests, results and reports. Leads while the group gives it the partitions.

What goes wrong in a turn (PostgreSQL or Kafka away, a deposed epoch) ends the term: said once, then the loop waits,
reads again from the last commit, and begins a new term. Everything read twice changes nothing.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.scheduler.assignor import Tenure, single_owner
from services.scheduler.rules.credit import Credit
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import SchedulerStore
from services.scheduler.term import DeposedError, Term
from shared import kafka
from shared.errors import InvalidMessage
from shared.kafka import Outgoing, Publisher
from shared.log import get_logger
from shared.messages import BlogRequested, JobEvent, Message, WorkerReport
from shared.postgres import AWAY
from shared.topics import REQUESTS, RESULTS, SCHEDULER_GROUP, WORKERS

log = get_logger(__name__)
M = TypeVar("M", bound=Message)

_TICK_S = 1.0
_PAUSE_S = 2.0
_RECORDS_A_TURN = 500


class Scheduler:
    """Runs until told to stop. `pool` and `publisher` are started and belong to the caller."""

    def __init__(self, *, name: str, settings: SchedulerSettings, store: SchedulerStore, publisher: Publisher) -> None:
        self._name = name
        self._settings = settings
        self._store = store
        self._publisher = publisher
        self._group = kafka.names(settings).group(SCHEDULER_GROUP)
        self._tenure = Tenure()
        self._credit = Credit(silence_s=settings.worker_silence_s)
        self._term: Term | None = None
        self._handled: dict[TopicPartition, int] = {}
        self._ticked_at = self._swept_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        consumer = kafka.consumer(
            self._settings, group_id=self._group, client_id=self._name,
            partition_assignment_strategy=[single_owner(self._tenure)],
        )  # fmt: skip
        topics = kafka.topic_names(self._settings, (REQUESTS, RESULTS, WORKERS))
        consumer.subscribe(topics, listener=_Election(self._assigned, lambda: self._revoked(consumer)))
        await consumer.start()
        log.info("scheduler started", group=self._group)
        try:
            while not stop.is_set():
                await self._guarded_turn(consumer, stop)
            await self._commit(consumer)
        finally:
            await consumer.stop()
        log.info("scheduler stopped")

    async def _guarded_turn(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        try:
            await self._turn(consumer)
        except (*AWAY, KafkaError, DeposedError) as error:
            log.error("scheduling pauses", reason=f"{type(error).__name__}: {error}")
            self._term = None
            await _wait(stop, _PAUSE_S)
            while not stop.is_set() and not await self._recovered(consumer):
                await _wait(stop, _PAUSE_S)

    async def _recovered(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether both PostgreSQL and Kafka answer again; reading then begins at what was committed."""
        try:
            await self._store.epoch()
            if consumer.assignment():
                await consumer.seek_to_committed()
        except (*AWAY, KafkaError):
            return False
        self._handled.clear()
        log.info("scheduling goes on")
        return True

    async def _turn(self, consumer: AIOKafkaConsumer) -> None:
        if self._tenure_ended():
            await consumer.getmany(timeout_ms=500)  # a standby polls to stay in the group; it is given nothing
            return
        term = self._term or await self._begin_term()
        batches = await consumer.getmany(timeout_ms=self._patience_ms(term), max_records=_RECORDS_A_TURN)
        await self._handle(term, batches)
        await term.forward()
        await self._tick(consumer, term)

    async def _begin_term(self) -> Term:
        epoch = await self._store.take_lead(self._name)
        log.info("this scheduler leads", epoch=epoch)
        term = Term(
            name=self._name, epoch=epoch, settings=self._settings, store=self._store, publisher=self._publisher,
            credit=self._credit,
        )  # fmt: skip
        await term.rebuild()
        self._term = term
        return term

    async def _handle(self, term: Term, batches: dict[TopicPartition, list[ConsumerRecord]]) -> None:
        said: dict[type[Message], list[Message]] = defaultdict(list)
        for records in batches.values():
            for record in records:
                message = await self._read(record)
                if message is not None:
                    said[type(message)].append(message)
        term.hear(_only(said[WorkerReport], WorkerReport))
        await term.admit(_only(said[BlogRequested], BlogRequested))
        await term.settle(_only(said[JobEvent], JobEvent))
        for partition, records in batches.items():
            self._handled[partition] = records[-1].offset + 1

    async def _read(self, record: ConsumerRecord) -> Message | None:
        try:
            return kafka.read(record)
        except InvalidMessage as error:
            log.error("a record is put aside", reason=str(error))
            await self._publisher.dead_letter(record, error, group=self._group)
            return None

    async def _tick(self, consumer: AIOKafkaConsumer, term: Term) -> None:
        now = time.monotonic()
        if now - self._swept_at >= self._settings.sweep_every_s:
            self._swept_at = now
            await term.sweep()
        if now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            await term.save_lifts()
            await self._commit(consumer)
            await self._publisher.publish(Outgoing(topic=WORKERS, key=self._name, message=term.report()))
            if term.counts:
                log.info("scheduled", **term.counts)
                term.counts.clear()

    def _patience_ms(self, term: Term) -> int:
        """How long to wait for records: until the next tick, or until a delayed job is due."""
        due = term.next_due()
        wait = _TICK_S if due is None else min(_TICK_S, max(due - time.time(), 0.01))
        return int(wait * 1000)

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        if self._handled:
            handled, self._handled = self._handled, {}
            await consumer.commit(handled)

    def _tenure_ended(self) -> bool:
        return self._tenure.since == float("inf")

    def _assigned(self, partitions: Sequence[TopicPartition]) -> None:
        if partitions:
            self._tenure.begin()
        else:
            self._tenure.end()
            log.info("this scheduler stands by")

    async def _revoked(self, consumer: AIOKafkaConsumer) -> None:
        """Before a rebalance: commit what was handled. Who leads next rebuilds the order, be it this process again."""
        self._term = None
        try:
            await self._commit(consumer)
        except KafkaError as error:
            log.warning("could not commit before a rebalance: some records will be read again", reason=str(error))


class _Election(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types
    def __init__(
        self, assigned: Callable[[Sequence[TopicPartition]], None], revoked: Callable[[], Awaitable[None]]
    ) -> None:
        self._assigned = assigned
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        if revoked:
            await self._revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._assigned(list(assigned))


def _only(messages: Sequence[Message], kind: type[M]) -> list[M]:
    return [message for message in messages if isinstance(message, kind)]


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
