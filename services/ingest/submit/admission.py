"""A copy of admission control's state: every ingest process reads blog.control from its beginning.

The scheduler closes admission for one store, when its queue is full or its budget is used up, or
for all stores (`*`). A tombstone opens it again. Kafka keeps the last record of each key, so a
process that starts late has the same state as the others.
"""

from datetime import UTC, datetime

from aiokafka.structs import ConsumerRecord

from services.ingest.submit.rules import closed_state
from shared.domain.errors import InvalidMessage
from shared.domain.messages import AdmissionState
from shared.kafka import clients
from shared.kafka.follower import TopicFollower
from shared.kafka.topics import CONTROL
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)


class AdmissionView:
    """While Kafka is unavailable, the last known state applies."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.follower = TopicFollower(settings, CONTROL, self._apply_record)
        self._states: dict[str, AdmissionState] = {}

    def closed_state(self, store: str) -> AdmissionState | None:
        """Return the state that refuses this store's requests now; `None` while it is open."""
        return closed_state(self._states, store, datetime.now(UTC))

    def _apply_record(self, record: ConsumerRecord) -> None:
        store = (record.key or b"").decode(errors="replace")
        if record.value is None:
            self._open(store)
            return
        try:
            state = clients.decode_record(record)
        except InvalidMessage as error:
            log.error("admission state invalid, keeping the last one", reason=str(error))
            return
        if isinstance(state, AdmissionState) and state.closed:
            log.info("admission closed", store=store, reason=state.reason)
            self._states[store] = state
        else:
            self._open(store)

    def _open(self, store: str) -> None:
        if self._states.pop(store, None) is not None:
            log.info("admission opened", store=store)
