"""Consumes tasks from Kafka while slots are free, and commits each partition's watermark.

Running jobs continue through a rebalance under their leases. The owned partitions determine the
worker's share of the rate limits. The checkpoint of each partition's quota is stored with its
committed offset.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from services.generator.jobs.commit_watermark import CommitWatermark
from services.generator.jobs.status import WorkerStatus
from services.generator.jobs.worker import Worker
from services.generator.quota.assignor import QuotaAgreement, quota_assignor
from services.generator.quota.partition_quota import PartitionQuota
from shared.domain.errors import InvalidMessage, Unavailable
from shared.domain.messages import GenerationTask
from shared.domain.quota_layout import QuotaLayout
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
"""Without heartbeats for so long, Kafka gives the partitions and their quota to other workers."""
_SESSION_MARGIN_S = 1.0
_POLL_MS = 500
_RETRY_PAUSE_S = 2.0
_DEAD_LETTER_WINDOW_S = 60
_FINISH_WITHIN_S = 10


class TaskConsumer:
    """Feeds tasks to a worker, and keeps the owned partitions in `status`."""

    def __init__(
        self,
        *,
        name: str,
        settings: KafkaSettings,
        slots: int,
        dead_letter_limit: int,
        worker: Worker,
        status: WorkerStatus,
        publisher: Publisher,
        quota: PartitionQuota,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._status = status
        self._quota = quota
        self._slots = slots
        self._publisher = publisher
        self._group = clients.namespace(settings).group(GENERATOR_GROUP)
        self._topic = clients.namespace(settings).topic(GENERATION)
        self._agreement = QuotaAgreement(quota.carried_calls())
        self._consumer: AIOKafkaConsumer = clients.create_consumer(
            settings,
            group_id=self._group,
            client_id=name,
            partition_assignment_strategy=[quota_assignor(self._agreement)],
            session_timeout_ms=int(_SESSION_S * 1_000),
            heartbeat_interval_ms=1_000,  # a member that notices a rebalance late delays all
        )
        self._watermarks: dict[TopicPartition, CommitWatermark] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slot_freed = asyncio.Event()
        self._committed_at = 0.0
        self._restoring_quota: asyncio.Task[None] | None = None
        self._quota_restored = False
        self._loop = asyncio.get_running_loop()
        self._dead_letters = _RecentCount(limit=dead_letter_limit, within_s=_DEAD_LETTER_WINDOW_S)
        self._fatal: Unavailable | None = None

    async def join_group(self) -> None:
        """Join the group. Returns once partitions are assigned, or the group has none left."""
        self._consumer.subscribe(
            [self._topic],
            listener=_RebalanceListener(self._handle_assignment, self._commit_before_rebalance),
        )
        await self._consumer.start()

    async def run_until_stopped(self, stop: asyncio.Event) -> None:
        """Consume tasks until `stop` is set. Does not wait for tasks in progress: the drain does.

        Raises `Unavailable` after too many unreadable records.
        """
        while not stop.is_set():
            try:
                await self._poll_once()
            except (KafkaError, TimeoutError) as error:
                log.error(
                    "dependency unavailable, retrying",
                    dependency="Kafka",
                    operation="consume tasks",
                    reason=f"{type(error).__name__}: {error}",
                )
                await asyncio.sleep(_RETRY_PAUSE_S)
        if self._fatal is not None:
            raise self._fatal

    async def stay_in_group(self) -> None:
        """Stay in the group during the drain, without consuming, until cancelled.

        The worker keeps its quota, because its running jobs still spend it.
        """
        while True:
            try:
                self._consumer.pause(*self._consumer.assignment())
                # A rebalance removes the pause, so this poll may return records.
                self._leave_unfinished(await self._consumer.getmany(timeout_ms=0))
                await self._commit_unless_rebalancing()
            except (KafkaError, TimeoutError) as error:
                log.warning(
                    "dependency unavailable, retrying",
                    dependency="Kafka",
                    operation="stay in the group during the drain",
                    reason=f"{type(error).__name__}: {error}",
                )
            await asyncio.sleep(_COMMIT_EVERY_S)

    async def leave_group(self) -> None:
        """After the drain: wait up to 10 s for the last tasks, commit, and leave the group."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FINISH_WITHIN_S)
        await self._commit_before_rebalance()
        for task in self._tasks:
            task.cancel()
        await self._consumer.stop()
        if self._restoring_quota is not None:  # a rebalance may have started it meanwhile
            self._restoring_quota.cancel()

    async def _poll_once(self) -> None:
        if self._fatal is not None:
            raise self._fatal
        restoring = self._restoring_quota
        if restoring is not None and restoring.done() and not restoring.cancelled():
            restoring.result()  # raises the error of a bug
        free = self._slots - (len(self._tasks) - self._worker.waiting)
        if free > 0:
            self._consumer.resume(*self._consumer.paused())
            self._start_batches(await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=free))
        else:  # all slots are taken: poll with everything paused, which keeps the membership
            self._consumer.pause(*self._consumer.assignment())
            # A rebalance removes the pause, so this poll may return records.
            self._start_batches(await self._consumer.getmany(timeout_ms=0))
            self._slot_freed.clear()
            await wait_for_event(self._slot_freed, _COMMIT_EVERY_S)
        if time.monotonic() - self._committed_at > _COMMIT_EVERY_S:
            self._committed_at = time.monotonic()
            await self._commit_unless_rebalancing()

    def _leave_unfinished(self, batches: Batches) -> None:
        """Do not process polled records: the next owner of the partition reads them again.

        Each partition's first record is started and never finished, so its commits stop there.
        """
        for partition, records in batches.items():
            self._watermark_of(partition, records[0]).start_record(records[0].offset)

    def _start_batches(self, batches: Batches) -> None:
        """Start all polled records in one go, so that no rebalance comes between."""
        for partition, records in batches.items():
            for record in records:
                self._start_record(partition, record)

    def _start_record(self, partition: TopicPartition, record: ConsumerRecord) -> None:
        watermark = self._watermark_of(partition, record)
        watermark.start_record(record.offset)
        try:
            message = clients.decode_record(record)
            if not isinstance(message, GenerationTask):
                raise InvalidMessage(
                    "not a generation task", topic=record.topic, offset=record.offset
                )
        except InvalidMessage as error:
            task = asyncio.create_task(
                self._dead_letter(record, error, watermark), name="dead letter"
            )
        else:
            task = asyncio.create_task(
                self._process(message, watermark, record.offset), name=f"task of {message.job}"
            )
        self._tasks.add(task)
        task.add_done_callback(self._handle_task_end)

    def _watermark_of(self, partition: TopicPartition, first: ConsumerRecord) -> CommitWatermark:
        return self._watermarks.setdefault(partition, CommitWatermark(first.offset))

    async def _process(
        self, message: GenerationTask, watermark: CommitWatermark, offset: int
    ) -> None:
        if await self._worker.process_task(message):
            watermark.finish_record(offset)

    def _handle_task_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slot_freed.set()
        if not task.cancelled() and task.exception() is not None:
            # The record stays unfinished and is read again after the lease has expired.
            log.error("task ended with a bug", exc_info=task.exception())

    async def _dead_letter(
        self, record: ConsumerRecord, error: InvalidMessage, watermark: CommitWatermark
    ) -> None:
        log.error("record moved to the dead letter queue", reason=str(error))
        while not await self._publish_dead_letter(record, error):
            await asyncio.sleep(_RETRY_PAUSE_S)
        watermark.finish_record(record.offset)
        if self._dead_letters.add(time.monotonic()):
            self._fatal = Unavailable(
                f"too many records of {self._topic} cannot be read; worker stopped;"
                " see the dead-letter topic"
            )

    async def _publish_dead_letter(self, record: ConsumerRecord, error: InvalidMessage) -> bool:
        try:
            await self._publisher.publish_dead_letter(record, error, group=self._group)
        except (KafkaError, TimeoutError) as kafka_error:
            log.warning(
                "dependency unavailable, retrying",
                dependency="Kafka",
                operation="publish dead letter",
                reason=f"{type(kafka_error).__name__}: {kafka_error}",
            )
            return False
        return True

    async def _commit_unless_rebalancing(self) -> None:
        try:
            await self._commit()
        except (CommitFailedError, IllegalStateError) as error:
            # The partitions are about to be revoked; the listener is called soon.
            log.info(
                "offsets not committed",
                consequence="retried after the rebalance",
                reason=str(error),
            )

    async def _commit(self) -> None:
        """Commit all partitions, even without progress.

        The quota changes all the time, and Kafka's answer extends the time for which it may be
        spent.
        """
        if not self._quota_restored or not self._watermarks:
            return  # the previous owner's checkpoint is not read yet: do not overwrite it
        checkpoint, requested_at = self._quota.build_checkpoint(), self._loop.time()
        offsets = {
            partition: (watermark.commit_offset, checkpoint)
            for partition, watermark in self._watermarks.items()
        }
        await clients.commit_offsets(self._consumer, offsets, within_s=_COMMIT_WITHIN_S)
        self._quota.own_share_until(requested_at + _SESSION_S - _SESSION_MARGIN_S)

    async def _commit_before_rebalance(self) -> None:
        self._quota.pause_spending()
        try:
            await self._commit()
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "offsets not committed",
                consequence="some tasks will be delivered again",
                reason=f"{type(error).__name__}: {error}",
            )
        self._quota_restored = False
        if self._restoring_quota is not None:
            self._restoring_quota.cancel()
        self._watermarks.clear()

    def _handle_assignment(self, partitions: set[TopicPartition]) -> None:
        owned = tuple(sorted(partition.partition for partition in partitions))
        log.info("partitions assigned", partitions=list(owned))
        self._quota.own_share_until(self._loop.time() + _SESSION_S - _SESSION_MARGIN_S)
        self._restoring_quota = asyncio.create_task(
            self._restore_quota(partitions, self._agreement.layout), name="restore quota"
        )
        self._status.set_partitions(owned, total=self._agreement.layout.partitions)

    async def _restore_quota(self, partitions: set[TopicPartition], layout: QuotaLayout) -> None:
        """Restore the quota from the checkpoints beside the offsets. No call starts before that."""
        while True:
            try:
                checkpoints = await self._fetch_checkpoints(partitions) if partitions else {}
                owned = [partition.partition for partition in partitions]
                await self._quota.restore_from_checkpoints(owned, checkpoints, layout)
            except (KafkaError, OSError, TimeoutError, Unavailable) as error:
                log.warning(
                    "dependency unavailable, retrying",
                    dependency="Kafka",
                    operation="restore quota",
                    reason=f"{type(error).__name__}: {error}",
                )
                await asyncio.sleep(1)
            else:
                self._quota_restored = True
                self._status.changed.set()  # the report names the partitions that carry quota
                return

    async def _fetch_checkpoints(self, partitions: set[TopicPartition]) -> dict[int, str]:
        """Fetch the checkpoints of all partitions of the group, and the offsets of the owned."""
        offsets = await clients.fetch_group_offsets(self._settings, self._group)
        for partition in partitions:
            known = offsets.get(partition)
            start = known.offset if known is not None else await self._consumer.position(partition)
            self._watermarks.setdefault(partition, CommitWatermark(start))
        return {
            partition.partition: known.metadata
            for partition, known in offsets.items()
            if partition.topic == self._topic
        }


class _RecentCount:
    """Counts events; `add` returns true if more than `limit` fell within `within_s` seconds."""

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
