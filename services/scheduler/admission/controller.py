"""The doors on blog.control: says what the rules decide, and learns at a takeover what a predecessor said."""

from collections.abc import Callable, Iterable

from aiokafka.structs import ConsumerRecord, TopicPartition

from services.scheduler import messages
from services.scheduler.admission.rules import ALL, DecayingRate, AdmissionPolicy
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.settings import SchedulerSettings
from shared.domain.errors import InvalidMessage
from shared.domain.messages import AdmissionState
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.kafka.topics import CONTROL
from shared.observability.log import get_logger

log = get_logger(__name__)

_PATIENCE_MS = 1_000
_FETCH_MS = 20
"""A consumer stops only when its last fetch has ended: nobody leads meanwhile."""


class AdmissionController:
    """One leader's. `grown` is called with every store that gets work, `left` with every store that loses some."""

    def __init__(self, settings: SchedulerSettings, publisher: Publisher) -> None:
        self._settings = settings
        self._publisher = publisher
        self._gates = AdmissionPolicy(
            per_store=settings.max_pending_per_store, total=settings.max_pending_total
        )
        self._drain = DecayingRate()
        self._grown: set[str] = set()

    @property
    def closed_stores(self) -> int:
        return len(self._gates.closed - {ALL})

    def grown(self, stores: Iterable[str]) -> None:
        self._grown.update(stores)

    def left(self, store: str, now: float) -> None:
        self._drain.left(store, now)

    def forget(self, now: float) -> None:
        self._drain.forget(now)

    async def say(
        self, order: FairQueue, now: float, stopped_until: Callable[[str], float | None]
    ) -> None:
        """Publish what has changed. `stopped_until` is when the budget begins anew of a store that it stops."""
        grown, self._grown = self._grown, set()
        doors = self._gates.judge(
            grown,
            waiting=order.waiting_of,
            total=order.pending,
            rate=lambda store: self._drain.rate(store, now),
            stopped_until=stopped_until,
        )
        await self._publisher.publish_all([messages.admission_message(door) for door in doors])
        for door in doors:
            why = (
                {"reason": door.reason, "retry_after_s": door.retry_after_s} if door.closed else {}
            )
            log.info("door closed" if door.closed else "door open", store=door.store, **why)

    async def recall(self) -> None:
        """Read which doors are closed."""
        consumer = clients.create_consumer(self._settings, fetch_max_wait_ms=_FETCH_MS)
        await consumer.start()
        try:
            topic = clients.namespace(self._settings).topic(CONTROL)
            partitions = [TopicPartition(topic, number) for number in range(CONTROL.partitions)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(partitions)
            said: dict[str, AdmissionState | None] = {}
            while any(
                [await consumer.position(partition) < ends[partition] for partition in partitions]
            ):
                batches = await consumer.getmany(timeout_ms=_PATIENCE_MS)
                if not batches:
                    break  # what stood before the end was compacted away
                for record in (record for batch in batches.values() for record in batch):
                    said[(record.key or b"").decode(errors="replace")] = _gate(record)
        finally:
            await consumer.stop()
        for store, gate in said.items():
            if gate is not None:
                self._gates.recall(messages.decision_from_message(store, gate))


def _gate(record: ConsumerRecord) -> AdmissionState | None:
    """The closed gate in a record, if that is what it says."""
    try:
        message = clients.decode_record(record) if record.value is not None else None
    except InvalidMessage as error:
        log.error("a gate cannot be understood: its door counts as open", reason=str(error))
        return None
    return message if isinstance(message, AdmissionState) and message.closed else None
