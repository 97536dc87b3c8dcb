"""What the worker says of itself: a report every second and on change, a log line every thirty."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from aiokafka.errors import KafkaError

from services.generator.jobs.worker import Worker
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.messages import WorkerReport
from shared.kafka.publisher import Outgoing, Publisher
from shared.kafka.topics import WORKERS
from shared.observability.log import get_logger
from shared.runtime.lifecycle import wait_for_event

log = get_logger(__name__)

_EVERY_S = 1.0
_NO_OFTENER_THAN_S = 0.1
_HEARTBEAT_S = 30.0


class WorkerReporter:
    """Reports until cancelled. `changed` asks for a report soon, not at once: changes come in crowds."""

    def __init__(
        self,
        *,
        name: str,
        slots: int,
        standin: bool,
        worker: Worker,
        limiters: Sequence[ProviderLimiter],
        publisher: Publisher,
    ) -> None:
        self.partitions: tuple[int, ...] = ()
        self.draining = False
        self._name = name
        self._slots = slots
        self._standin = standin
        self._worker = worker
        self._limiters = limiters
        self._publisher = publisher
        self._started_at = datetime.now(UTC)
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            await self.report()
            await asyncio.sleep(_NO_OFTENER_THAN_S)
            await wait_for_event(self._changed, _EVERY_S - _NO_OFTENER_THAN_S)

    async def report(self) -> None:
        try:
            await self._publisher.publish(
                Outgoing(topic=WORKERS, key=self._name, message=self._report()), timeout=5
            )
        except (KafkaError, TimeoutError) as error:
            log.warning("a report was not published", reason=f"{type(error).__name__}: {error}")

    async def log_heartbeat(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            self.say()

    def say(self) -> None:
        """The heartbeat's line, also a worker's last word."""
        log.info(
            f"[Blog Worker] Heartbeat: {self._worker.running} running, {self._worker.done} done,"
            f" {self._worker.failed} failed",
            partitions=len(self.partitions),
            refused=self._worker.refused,
        )

    def _open_slots(self) -> int:
        """None while a provider's account has no money left, but for a job that finds out now and then."""
        shut = [limiter for limiter in self._limiters if limiter.circuit_open]
        if self.draining or any(not limiter.is_probe_due for limiter in shut):
            return 0
        return self._worker.running + 1 if shut else self._slots

    def _report(self) -> WorkerReport:
        return WorkerReport(
            worker=self._name,
            at=datetime.now(UTC),
            started_at=self._started_at,
            partitions=self.partitions,
            slots=self._open_slots(),
            running=self._worker.running,
            limiters=tuple(state for limiter in self._limiters for state in limiter.build_reports()),
            draining=self.draining,
            standin=self._standin,
        )
