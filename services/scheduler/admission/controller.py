"""Admission control on blog.control: publishes decisions and restores them at a failover."""

import time
from collections.abc import Iterable

from aiokafka.structs import ConsumerRecord

from services.scheduler import messages
from services.scheduler.admission.rules import AdmissionPolicy, StoreRates
from services.scheduler.budgets.tracker import BudgetTracker
from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.settings import SchedulerSettings
from shared.domain.errors import InvalidMessage
from shared.domain.messages import AdmissionState
from shared.domain.stores import ALL_STORES
from shared.kafka import clients
from shared.kafka.publisher import Publisher
from shared.kafka.ranges import read_topic
from shared.kafka.topics import CONTROL
from shared.observability.log import get_logger

log = get_logger(__name__)

_GAP_TIMEOUT_S = 1.0
"""Compaction may remove the records before the end of the topic."""
_FETCH_MS = 20
"""A consumer stops only after its last fetch, and the failover waits for that."""


class AdmissionController:
    """Admission control of one leader session.

    `mark_dirty` takes every store with a changed queue or budget; `record_dequeue` takes every
    store that a job leaves.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        publisher: Publisher,
        queue: FairQueue,
        budgets: BudgetTracker,
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._queue = queue
        self._budgets = budgets
        self._policy = AdmissionPolicy(
            per_store=settings.max_pending_per_store, total=settings.max_pending_total
        )
        self._dequeue_rate = StoreRates()
        self._dirty: set[str] = set()

    @property
    def closed_stores(self) -> int:
        return len(self._policy.closed - {ALL_STORES})

    def mark_dirty(self, stores: Iterable[str]) -> None:
        self._dirty.update(stores)

    def record_dequeue(self, store: str, now: float) -> None:
        self._dequeue_rate.record_amount(store, now)

    def forget_idle_stores(self, now: float) -> None:
        self._dequeue_rate.forget_idle(now)

    async def publish_admission_states(self) -> None:
        """Publish the admission states that have changed."""
        now = time.time()
        dirty, self._dirty = self._dirty, set()
        decisions = self._policy.decide_changes(
            dirty,
            waiting=self._queue.count_waiting,
            total=self._queue.pending,
            rate=lambda store: self._dequeue_rate.per_second(store, now),
            stopped_until=self._budgets.stopped_until,
        )
        await self._publisher.publish_all(list(map(messages.admission_message, decisions)))
        for decision in decisions:
            if decision.closed:
                log.info(
                    "admission closed",
                    store=decision.store,
                    reason=decision.reason,
                    retry_after_s=decision.retry_after_s,
                )
            else:
                log.info("admission opened", store=decision.store)

    async def load_admission_states(self) -> None:
        """Restore the published closed states, and mark every store with work as dirty."""
        self.mark_dirty(summary.store for summary in self._queue.summarize_stores())
        states: dict[str, AdmissionState | None] = {}
        async for records in read_topic(
            self._settings, CONTROL, gap_timeout_s=_GAP_TIMEOUT_S, fetch_max_wait_ms=_FETCH_MS
        ):
            for record in records:
                states[(record.key or b"").decode(errors="replace")] = _closed_state(record)
        for store, state in states.items():
            if state is not None:
                self._policy.restore_decision(messages.decision_from_message(store, state))


def _closed_state(record: ConsumerRecord) -> AdmissionState | None:
    """Return the closed state in a record; `None` for a tombstone or an invalid record."""
    try:
        message = clients.decode_record(record) if record.value is not None else None
    except InvalidMessage as error:
        log.error("admission state invalid, taken as open", reason=str(error))
        return None
    return message if isinstance(message, AdmissionState) and message.closed else None
