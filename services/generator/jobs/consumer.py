"""The thin shell around Kafka: takes tasks while there are free slots, commits each partition's finished prefix.

Running jobs go on through a rebalance under their leases; the partitions that are owned decide the share of the budget,
and each one's part of it stands beside its committed offset.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.generator.jobs.commit_watermark import CommitWatermark
from services.generator.jobs.worker import Worker
from services.generator.quota.partition_quota import PartitionQuota
from shared.domain.errors import InvalidMessage, Unavailable
from shared.domain.messages import GenerationTask
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.kafka.topics import GENERATION, GENERATOR_GROUP
from shared.observability.log import get_logger
from shared.runtime.lifecycle import wait_for_event
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)
Batches = Mapping[TopicPartition, Sequence[ConsumerRecord]]

_COMMIT_EVERY_S = 1.0
_COMMIT_WITHIN_S = 5.0
_SESSION_S = 10.0
"""After so long without a sign of us, Kafka gives our partitions, and their budget, to others."""
_MARGIN_S = 1.0
_POLL_MS = 500
_AWAY_PAUSE_S = 2.0


class TaskConsumer:
    """Feeds a worker. `owned` hears of the partitions after every rebalance."""

    def __init__(
        self,
        *,
        name: str,
        settings: KafkaSettings,
        slots: int,
        dead_letter_limit: int,
        worker: Worker,
        publisher: Publisher,
        budget: PartitionQuota,
        owned: Callable[[tuple[int, ...]], None],
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._budget = budget
        self._slots = slots
        self._publisher = publisher
        self._owned = owned
        self._group = clients.namespace(settings).group(GENERATOR_GROUP)
        self._topic = clients.namespace(settings).topic(GENERATION)
        self._consumer: AIOKafkaConsumer = clients.create_consumer(
            settings,
            group_id=self._group,
            client_id=name,
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=int(_SESSION_S * 1_000),
            heartbeat_interval_ms=1_000,  # who hears late, pauses others
        )
        self._prefixes: dict[TopicPartition, CommitWatermark] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slot_freed = asyncio.Event()
        self._committed_at = 0.0
        self._taking_over: asyncio.Task[None] | None = None
        self._taken_over = False
        self._loop = asyncio.get_running_loop()
        self._put_aside = _RecentCount(limit=dead_letter_limit, within_s=60)
        self._broken: Unavailable | None = None

    async def start(self) -> None:
        """Join the group; returns once partitions are assigned (or the group has none for us)."""
        self._consumer.subscribe(
            [self._topic], listener=_RebalanceListener(self._assigned, self._commit_before_rebalance)
        )
        await self._consumer.start()

    async def run(self, stop: asyncio.Event) -> None:
        """Take tasks until told to stop. What was taken is not waited for: the worker drains."""
        while not stop.is_set():
            try:
                await self._turn()
            except (KafkaError, TimeoutError) as error:
                log.error(
                    "Kafka is away: taking no new jobs", reason=f"{type(error).__name__}: {error}"
                )
                await asyncio.sleep(_AWAY_PAUSE_S)
        if self._broken is not None:
            raise self._broken

    async def hold(self) -> None:
        """While the worker drains: take nothing, but stay in the group and keep the share that its jobs still spend."""
        while True:
            try:
                self._consumer.pause(*self._consumer.assignment())
                self._leave_to_others(
                    await self._consumer.getmany(timeout_ms=0)
                )  # a rebalance forgets the pause
                await self._commit_unless_rebalancing()
            except (KafkaError, TimeoutError) as error:
                log.warning(
                    "Kafka is away while draining", reason=f"{type(error).__name__}: {error}"
                )
            await asyncio.sleep(_COMMIT_EVERY_S)

    async def finish(self) -> None:
        """After the worker has drained: wait for the last messages, commit, leave the group."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10)
        await self._commit_before_rebalance()
        for task in self._tasks:
            task.cancel()
        await self._consumer.stop()
        if self._taking_over is not None:  # a rebalance may have come between
            self._taking_over.cancel()

    async def _turn(self) -> None:
        if self._broken is not None:
            raise self._broken
        if (
            self._taking_over is not None
            and self._taking_over.done()
            and not self._taking_over.cancelled()
        ):
            self._taking_over.result()  # a fault of ours there must not go unheard
        free = self._slots - (len(self._tasks) - self._worker.waiting)
        if free > 0:
            self._consumer.resume(*self._consumer.paused())
            self._take_all(await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=free))
        else:  # full: stay in the group by polling with everything paused, and wait for a slot
            self._consumer.pause(*self._consumer.assignment())
            self._take_all(
                await self._consumer.getmany(timeout_ms=0)
            )  # a rebalance forgets what was paused
            self._slot_freed.clear()
            await wait_for_event(self._slot_freed, _COMMIT_EVERY_S)
        if time.monotonic() - self._committed_at > _COMMIT_EVERY_S:
            self._committed_at = time.monotonic()
            await self._commit_unless_rebalancing()

    def _leave_to_others(self, batches: Batches) -> None:
        """Begun here and never finished, so that no commit passes them: the next owner reads them."""
        for partition, records in batches.items():
            self._prefix(partition, records[0]).begin(records[0].offset)

    def _take_all(self, batches: Batches) -> None:
        """All of a batch, in one go: whatever was polled is begun, and no rebalance comes between."""
        for partition, records in batches.items():
            for record in records:
                self._take(partition, record)

    def _take(self, partition: TopicPartition, record: ConsumerRecord) -> None:
        prefix = self._prefix(partition, record)
        prefix.begin(record.offset)
        try:
            message = clients.decode_record(record)
            if not isinstance(message, GenerationTask):
                raise InvalidMessage(
                    "not a generation task", topic=record.topic, offset=record.offset
                )
        except InvalidMessage as error:
            task = asyncio.create_task(
                self._set_aside(record, error, prefix), name="a record that is put aside"
            )
        else:
            task = asyncio.create_task(
                self._handle(message, prefix, record.offset), name=f"message of {message.job}"
            )
        self._tasks.add(task)
        task.add_done_callback(self._handled)

    def _prefix(self, partition: TopicPartition, first: ConsumerRecord) -> CommitWatermark:
        return self._prefixes.setdefault(partition, CommitWatermark(first.offset))

    async def _handle(self, message: GenerationTask, prefix: CommitWatermark, offset: int) -> None:
        if await self._worker.process_task(message):
            prefix.finish(offset)

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slot_freed.set()
        if not task.cancelled() and task.exception() is not None:
            # The message stays unfinished, so it will be read again; the lease returns the job before that.
            log.error("a job's handling ended in a fault of ours", exc_info=task.exception())

    async def _set_aside(
        self, record: ConsumerRecord, error: InvalidMessage, prefix: CommitWatermark
    ) -> None:
        log.error("a record is put aside", reason=str(error))
        while not await self._dead_lettered(record, error):
            await asyncio.sleep(_AWAY_PAUSE_S)
        prefix.finish(record.offset)
        if self._put_aside.add(time.monotonic()):
            self._broken = Unavailable(
                f"too many records of {self._topic} cannot be read; see the dead-letter topic; stopped"
            )

    async def _dead_lettered(self, record: ConsumerRecord, error: InvalidMessage) -> bool:
        try:
            await self._publisher.dead_letter(record, error, group=self._group)
        except (KafkaError, TimeoutError) as away:
            log.warning("waiting to put a record aside", reason=f"{type(away).__name__}: {away}")
            return False
        return True

    async def _commit_unless_rebalancing(self) -> None:
        try:
            await self._commit()
        except (
            CommitFailedError,
            IllegalStateError,
        ) as error:  # our partitions are on their way: we hear of it soon
            log.info("not committed: the group rebalances", reason=str(error))

    async def _commit(self) -> None:
        """Commit all partitions, moved or not: the budget moves all the time, and Kafka's answer is its lease."""
        if not self._taken_over or not self._prefixes:
            return  # what the last owner left is not known yet: it must not be overwritten
        note, asked_at = self._budget.build_checkpoint(), self._loop.time()
        offsets = {
            partition: (prefix.position, note) for partition, prefix in self._prefixes.items()
        }
        await clients.commit_offsets(self._consumer, offsets, within_s=_COMMIT_WITHIN_S)
        self._budget.lease_until(asked_at + _SESSION_S - _MARGIN_S)

    async def _commit_before_rebalance(self) -> None:
        self._budget.pause()
        try:
            await self._commit()
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "could not commit: some messages will be read again",
                reason=f"{type(error).__name__}: {error}",
            )
        self._taken_over = False
        if self._taking_over is not None:
            self._taking_over.cancel()
        self._prefixes.clear()

    def _assigned(self, partitions: set[TopicPartition]) -> None:
        owned = tuple(sorted(partition.partition for partition in partitions))
        log.info("partitions assigned", partitions=list(owned))
        self._budget.lease_until(self._loop.time() + _SESSION_S - _MARGIN_S)
        self._taking_over = asyncio.create_task(
            self._take_over(partitions), name="taking the budget over"
        )
        self._owned(owned)

    async def _take_over(self, partitions: set[TopicPartition]) -> None:
        """Read what the partitions' last owners have left, beside their offsets; spend nothing before that."""
        while True:
            try:
                notes = await self._notes(partitions) if partitions else {}
                await self._budget.restore_from_checkpoints(notes)
            except (KafkaError, OSError, TimeoutError, Unavailable) as error:
                log.warning(
                    "waiting to take the budget over", reason=f"{type(error).__name__}: {error}"
                )
                await asyncio.sleep(1)
            else:
                self._taken_over = True
                return

    async def _notes(self, partitions: set[TopicPartition]) -> dict[int, str]:
        offsets = await clients.fetch_group_offsets(self._settings, self._group)
        for partition in partitions:
            known = offsets.get(partition)
            start = known.offset if known is not None else await self._consumer.position(partition)
            self._prefixes.setdefault(partition, CommitWatermark(start))
        return {
            p.partition: offsets[p].metadata if p in offsets else "" for p in sorted(partitions)
        }


class _RecentCount:
    """Counts happenings; true when more than `limit` fell within the last `within_s` seconds."""

    def __init__(self, *, limit: int, within_s: float) -> None:
        self._limit = limit
        self._within_s = within_s
        self._times: list[float] = []

    def add(self, now: float) -> bool:
        self._times = [at for at in self._times if now - at < self._within_s] + [now]
        return len(self._times) > self._limit


class _RebalanceListener(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka ships no types
    def __init__(
        self,
        assigned: Callable[[set[TopicPartition]], None],
        revoked: Callable[[], Awaitable[None]],
    ) -> None:
        self._assigned = assigned
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._assigned(assigned)
