"""Delivers job events to their subscribers: every ingest process reads blog.results from now on."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias
from uuid import UUID

from aiokafka.structs import ConsumerRecord

from shared.domain.errors import InvalidMessage
from shared.domain.messages import JobEvent
from shared.kafka import clients
from shared.kafka.follower import TopicFollower
from shared.kafka.topics import RESULTS
from shared.runtime.settings import KafkaSettings

_MAX_QUEUED = 100
"""A slower subscriber misses events; PostgreSQL has the state."""

EventQueue: TypeAlias = asyncio.Queue[JobEvent | None]


class ResultSubscriptions:
    def __init__(self, settings: KafkaSettings) -> None:
        self.follower = TopicFollower(settings, RESULTS, self._deliver_record)
        self._queues: defaultdict[UUID, set[EventQueue]] = defaultdict(set)

    @contextmanager
    def subscribe(self, job: UUID) -> Iterator[EventQueue]:
        """Queue a job's events from now on; `None` marks the end, when the process stops."""
        queue: EventQueue = asyncio.Queue(_MAX_QUEUED)
        self._queues[job].add(queue)
        try:
            yield queue
        finally:
            self._queues[job].discard(queue)
            if not self._queues[job]:
                del self._queues[job]

    async def close_when_stopped(self, stop: asyncio.Event) -> None:
        """End every subscription when `stop` is set; returns only by cancellation."""
        await stop.wait()
        for queue in (queue for queues in self._queues.values() for queue in queues):
            _put(queue, None)
        await asyncio.Event().wait()

    def _deliver_record(self, record: ConsumerRecord) -> None:
        if not self._queues:
            return
        try:
            event = clients.decode_record(record)
        except InvalidMessage:
            return  # the scheduler sends it to the dead letter queue
        if isinstance(event, JobEvent):
            for queue in self._queues.get(event.job, ()):
                _put(queue, event)


def _put(queue: EventQueue, event: JobEvent | None) -> None:
    if not queue.full():
        queue.put_nowait(event)
