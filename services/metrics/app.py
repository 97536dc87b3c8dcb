"""The Faust app: two streams and one table. Everything else of the service reads from here.

The table's entries are shards: a part of one store's jobs together with what they add up to. What was counted and what
tells a repeat from news are one value, so that no crash can part them. Entries follow the partition of their events:
several processes split them as Kafka splits the partitions.
"""

import time
from collections.abc import AsyncIterator
from typing import Any

import faust

from services.metrics.board import Board
from services.metrics.rules import fold
from services.metrics.settings import MetricsSettings
from shared import kafka
from shared.errors import InvalidMessage
from shared.log import get_logger
from shared.messages import JobEvent, Message, SchedulerReport, WorkerReport, decode
from shared.topics import METRICS_GROUP, RESULTS, WORKERS

log = get_logger(__name__)

_READ_EVERY_S = 1.0


class Tables:
    """Reads of the table. They go through all of it, so they are made at most once a second."""

    def __init__(self, shards: Any) -> None:
        self._shards = shards
        self._stores: dict[str, fold.Aggregate] = {}
        self._read_at = float("-inf")

    def stores(self) -> dict[str, fold.Aggregate]:
        if time.monotonic() - self._read_at > _READ_EVERY_S:
            self._stores = fold.by_store(self._shards.items())
            self._read_at = time.monotonic()
        return self._stores

    def total(self) -> fold.Aggregate:
        return fold.merge(list(self.stores().values()))


def build(settings: MetricsSettings, board: Board) -> tuple[faust.App, Tables]:
    """The app, not started, and its table. The topics must exist before it starts."""
    names = kafka.names(settings)
    app = faust.App(
        names.group(METRICS_GROUP),
        broker=[f"kafka://{server}" for server in settings.kafka_bootstrap_servers.split(",")],
        store="rocksdb://?driver=rocksdict",
        datadir=str(settings.metrics_dir),
        topic_partitions=RESULTS.partitions,
        topic_replication_factor=1,
        topic_disable_leader=True,
        processing_guarantee="at_least_once",
        broker_session_timeout=15.0,
        consumer_auto_offset_reset="earliest",
        web_enabled=False,
        stream_wait_empty=False,
        autodiscover=False,
        origin="services.metrics",
    )
    raw: dict[str, Any] = {"key_type": bytes, "key_serializer": "raw", "value_type": bytes, "value_serializer": "raw"}
    results = app.topic(names.topic(RESULTS), partitions=RESULTS.partitions, **raw)
    reports = app.topic(names.topic(WORKERS), partitions=WORKERS.partitions, **raw)

    shards = app.Table("shards", partitions=RESULTS.partitions, key_type=str)

    @app.agent(results, name="results")
    async def on_result(stream: Any) -> None:
        async for message in _messages(stream, board):
            if isinstance(message, JobEvent):
                fold_event(message, shards)

    @app.agent(reports, name="reports")
    async def on_report(stream: Any) -> None:
        async for message in _messages(stream, board):
            if isinstance(message, WorkerReport | SchedulerReport):
                board.hear(message)

    return app, Tables(shards)


def fold_event(event: JobEvent, shards: Any) -> None:
    """Fold one event into the table (any mapping); an event heard before changes nothing."""
    key = fold.shard_key(event)
    shard = fold.into_shard(event, shards.get(key))
    if shard is not None:
        shards[key] = shard


async def _messages(stream: Any, board: Board) -> AsyncIterator[Message]:
    """The messages of a stream; what cannot be understood is counted and put aside."""
    async for event in stream.events():
        try:
            message = decode(event.value, _headers(event.headers))
        except InvalidMessage as error:
            board.malformed += 1
            log.warning("an event is put aside", reason=error.reason)
            continue
        yield message


def _headers(headers: Any) -> list[tuple[str, bytes]]:
    pairs = headers.items() if isinstance(headers, dict) else (headers or ())
    return [(name if isinstance(name, str) else name.decode(), value) for name, value in pairs]
