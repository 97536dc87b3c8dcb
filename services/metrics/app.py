"""The Faust app: two streams, three tables. Everything else of the service reads from here.

Tables are keyed by job and by store; both follow the partition of the event that they come from, so several processes
split them as Kafka splits the partitions.
"""

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

_ALL = "all"


class Tables:
    """Reads of the tables, as plain dictionaries."""

    def __init__(self, *, stores: Any, totals: Any) -> None:
        self._stores = stores
        self._totals = totals

    def stores(self) -> dict[str, fold.Aggregate]:
        return {str(store): dict(aggregate) for store, aggregate in self._stores.items()}

    def total(self) -> fold.Aggregate:
        return fold.merge([dict(aggregate) for aggregate in self._totals.values()])


def build(settings: MetricsSettings, board: Board) -> tuple[faust.App, Tables]:
    """The app, not started, and its tables. The topics must exist before it starts."""
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

    def table(name: str) -> Any:
        return app.Table(name, partitions=RESULTS.partitions, key_type=str)

    jobs, stores, totals = table("jobs"), table("stores"), table("totals")

    @app.agent(results, name="results")
    async def on_result(stream: Any) -> None:
        async for message, partition in _messages(stream, board):
            if isinstance(message, JobEvent):
                fold_event(message, partition, jobs=jobs, stores=stores, totals=totals)

    @app.agent(reports, name="reports")
    async def on_report(stream: Any) -> None:
        async for message, _ in _messages(stream, board):
            if isinstance(message, WorkerReport | SchedulerReport):
                board.hear(message)

    return app, Tables(stores=stores, totals=totals)


def fold_event(event: JobEvent, partition: int, *, jobs: Any, stores: Any, totals: Any) -> None:
    """Fold one event into the tables (any mappings); an event heard before changes none of them."""
    job, total = str(event.job), f"{_ALL}-{partition}"
    folded = fold.change(event, jobs.get(job))
    if folded is None:
        return
    jobs[job], change = folded
    stores[event.store] = fold.apply(stores.get(event.store) or fold.empty(), change)
    totals[total] = fold.apply(totals.get(total) or fold.empty(), change)


async def _messages(stream: Any, board: Board) -> AsyncIterator[tuple[Message, int]]:
    """The messages of a stream with their partitions; what cannot be understood is counted and put aside."""
    async for event in stream.events():
        try:
            message = decode(event.value, _headers(event.headers))
        except InvalidMessage as error:
            board.malformed += 1
            log.warning("an event is put aside", reason=error.reason)
            continue
        yield message, event.message.partition


def _headers(headers: Any) -> list[tuple[str, bytes]]:
    pairs = headers.items() if isinstance(headers, dict) else (headers or ())
    return [(name if isinstance(name, str) else name.decode(), value) for name, value in pairs]
