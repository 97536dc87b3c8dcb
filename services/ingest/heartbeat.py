"""Whether a scheduler is at work, and has been for a while: blog.workers, heard by every ingest process for itself.

A leader reports once a second, after what it has admitted. One that has reported for a minute without a pause has
caught up with what came before: an id that it has not admitted by then is on nobody's way.
"""

import time

from aiokafka.structs import ConsumerRecord

from services.ingest.follower import Follower
from shared import kafka
from shared.errors import InvalidMessage
from shared.messages import SchedulerReport
from shared.settings import KafkaSettings
from shared.topics import WORKERS

SETTLED_S = 60.0
_SILENT_S = 10.0


class Pulse:
    """Beats, and whether they have come without a pause. `now` is any clock's, in seconds. Pure."""

    def __init__(self) -> None:
        self._since = self._last = float("-inf")

    def beat(self, now: float) -> None:
        """The first one after a pause begins anew."""
        self._since = now if now - self._last > _SILENT_S else self._since
        self._last = now

    def is_steady(self, now: float, for_s: float) -> bool:
        """Whether it beats now, and has for so long."""
        return now - self._last <= _SILENT_S and now - self._since >= for_s


class Heartbeat:
    def __init__(self, settings: KafkaSettings) -> None:
        self.copy = Follower(settings, WORKERS, self._hear)
        self._pulse = Pulse()

    def settled(self) -> bool:
        """Whether a scheduler has had the time to admit all that came a minute ago or earlier."""
        return self._pulse.is_steady(time.monotonic(), SETTLED_S)

    def _hear(self, record: ConsumerRecord) -> None:
        try:
            report = kafka.read(record)
        except InvalidMessage:
            return  # the scheduler, which reads them as well, says so
        if isinstance(report, SchedulerReport):
            self._pulse.beat(time.monotonic())
