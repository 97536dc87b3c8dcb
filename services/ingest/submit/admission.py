"""Whose door is closed: a copy of blog.control, read from its beginning by every ingest process for itself.

The scheduler closes a store's door when its queue is full (or everybody's, `*`) or its budget is used up, and opens it
with a tombstone. Kafka keeps the last word for each key, so a process that starts late knows what the others know.
"""

from datetime import UTC, datetime

from aiokafka.structs import ConsumerRecord

from services.ingest.submit.rules import door
from shared.domain.errors import InvalidMessage
from shared.domain.messages import AdmissionState
from shared.kafka import clients
from shared.kafka.follower import TopicFollower
from shared.kafka.topics import CONTROL
from shared.observability.log import get_logger
from shared.runtime.settings import KafkaSettings

log = get_logger(__name__)


class Gates:
    """While Kafka cannot be read, the doors stay as they were last heard of."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.copy = TopicFollower(settings, CONTROL, self._hear)
        self._gates: dict[str, AdmissionState] = {}

    def closed(self, store: str) -> AdmissionState | None:
        """The gate that keeps this store out now, if any."""
        return door(self._gates, store, datetime.now(UTC))

    def _hear(self, record: ConsumerRecord) -> None:
        store = (record.key or b"").decode(errors="replace")
        if record.value is None:
            self._open(store)
            return
        try:
            gate = clients.decode_record(record)
        except InvalidMessage as error:
            log.error("a gate cannot be understood: its door stays as it is", reason=str(error))
            return
        if isinstance(gate, AdmissionState) and gate.closed:
            log.info("a door closes", store=store, reason=gate.reason)
            self._gates[store] = gate
        else:
            self._open(store)

    def _open(self, store: str) -> None:
        if self._gates.pop(store, None) is not None:
            log.info("a door opens", store=store)
