"""Who listens to a job: blog.results, read from now on by every ingest process for itself, told to those who asked."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from aiokafka.structs import ConsumerRecord

from shared.domain.errors import InvalidMessage
from shared.domain.messages import JobEvent
from shared.kafka import clients
from shared.kafka.follower import TopicFollower
from shared.kafka.topics import RESULTS
from shared.runtime.settings import KafkaSettings

_AT_MOST = 100
"""Events that a listener may be behind: more are passed over, for PostgreSQL has the state."""

Heard = asyncio.Queue[JobEvent | None]


class Results:
    def __init__(self, settings: KafkaSettings) -> None:
        self.copy = TopicFollower(settings, RESULTS, self._hear)
        self._queues: defaultdict[UUID, set[Heard]] = defaultdict(set)

    @contextmanager
    def of(self, job: UUID) -> Iterator[Heard]:
        """A job's events from now on; None when there will be no more, for the process stops."""
        queue: Heard = asyncio.Queue(_AT_MOST)
        self._queues[job].add(queue)
        try:
            yield queue
        finally:
            self._queues[job].discard(queue)
            if not self._queues[job]:
                del self._queues[job]

    async def end_with(self, stop: asyncio.Event) -> None:
        """Let all listeners go when the process is told to stop."""
        await stop.wait()
        for queue in (queue for queues in self._queues.values() for queue in queues):
            _tell(queue, None)
        await asyncio.Event().wait()

    def _hear(self, record: ConsumerRecord) -> None:
        if not self._queues:
            return
        try:
            event = clients.decode_record(record)
        except InvalidMessage:
            return  # the scheduler puts it aside
        if isinstance(event, JobEvent):
            for queue in self._queues.get(event.job, ()):
                _tell(queue, event)


def _tell(queue: Heard, event: JobEvent | None) -> None:
    if not queue.full():
        queue.put_nowait(event)
