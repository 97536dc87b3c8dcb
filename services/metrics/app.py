"""The Faust app: two streams and one table. Everything else of the service reads from here.

The table's entries are shards: a part of one store's jobs together with what they add up to. What was counted and what
tells a repeat from news are one value, so that no crash can part them. Entries follow the partition of their events:
several processes split them as Kafka splits the partitions.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
import orjson
from faust.auth import Credentials, SASLCredentials, SSLCredentials

from services.metrics.board import Board
from services.metrics.picture import Picture
from services.metrics.rules import fold
from services.metrics.rules.timeline import Recent
from services.metrics.settings import MetricsSettings
from shared import kafka
from shared.errors import InvalidMessage
from shared.kafka_access import access, tls
from shared.log import get_logger
from shared.messages import JobEvent, Message, SchedulerReport, WorkerReport, decode
from shared.topics import METRICS_GROUP, RESULTS, WORKERS

log = get_logger(__name__)

_BATCH = 200
_WITHIN_S = 0.1
"""An event is counted at most so long after it came."""
_BUFFERED = 5_000
"""Changes that may wait to be sent to the changelog; Faust's own 100 is less than one batch."""

_RAW: dict[str, Any] = {"key_type": bytes, "key_serializer": "raw", "value_type": bytes, "value_serializer": "raw"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What this process has in memory of what it heard."""

    board: Board
    picture: Picture
    recent: Recent


class Counting:
    """The app, not started. The topics, and the changelog of `generation`, must exist before it starts."""

    def __init__(self, settings: MetricsSettings, memory: Memory, *, generation: int, folder: Path) -> None:
        self._memory = memory
        names = kafka.names(settings)
        self.app = app = faust.App(
            names.group(METRICS_GROUP),
            broker=[f"kafka://{server}" for server in settings.kafka_bootstrap_servers.split(",")],
            broker_credentials=_credentials(settings),
            store="rocksdb://?driver=rocksdict",
            datadir=str(folder),
            canonical_url=settings.own_url,
            topic_partitions=RESULTS.partitions,
            topic_replication_factor=1,
            topic_disable_leader=True,
            table_standby_replicas=0,
            processing_guarantee="at_least_once",
            broker_session_timeout=15.0,
            consumer_auto_offset_reset="earliest",
            web_enabled=False,
            stream_wait_empty=False,
            autodiscover=False,
            origin="services.metrics",
        )
        results = app.topic(names.topic(RESULTS), partitions=RESULTS.partitions, **_RAW)
        reports = app.topic(names.topic(WORKERS), partitions=WORKERS.partitions, **_RAW)
        self._shards = app.Table(
            table_name(generation), partitions=RESULTS.partitions, key_type=bytes, value_type=bytes
        )
        self._shards.on_recover(self._recovered)
        self._changelog = f"{names.group(METRICS_GROUP)}-{table_name(generation)}-changelog"
        self.redrawn = False
        """Whether the picture shows the partitions that are owned now."""
        app.on_partitions_revoked.connect(self._revoked, weak=False)
        app.agent(results, name="results")(self._count)
        app.agent(reports, name="reports")(self._report)
        app.producer.buffer.max_messages = _BUFFERED

    def partitions(self) -> list[int]:
        """The partitions of the results that this process counts."""
        owned = self.app.assignor.assigned_actives()
        return sorted(tp.partition for tp in owned if tp.topic == self._changelog)

    def peers(self) -> list[str]:
        """Where the other processes of the group listen: each tells its address in Faust's own assignment."""
        told = self.app.router.tables_metadata()
        return sorted({str(url) for url in told} - {str(self.app.conf.canonical_url)})

    def entries(self) -> Iterator[tuple[str, bytes]]:
        return ((key.decode(), value) for key, value in self._shards.items())

    async def _count(self, stream: Any) -> None:
        async for events in stream.take_events(_BATCH, within=_WITHIN_S):
            by_partition: dict[int, list[Any]] = defaultdict(list)
            for event in events:
                by_partition[event.message.partition].append(event)
            for group in by_partition.values():
                stream._set_current_event(group[-1])  # an entry goes where the current event came from
                count(self._messages(group), self._shards, self._memory)

    async def _report(self, stream: Any) -> None:
        async for event in stream.events():
            for message in self._messages([event]):
                if isinstance(message, WorkerReport | SchedulerReport):
                    self._memory.board.hear(message)

    def _messages(self, events: Iterable[Any]) -> Iterator[Message]:
        """What the events say; what cannot be understood is counted and left where it is. (The scheduler, which reads
        the same topics, puts it to the dead letters.)"""
        for event in events:
            try:
                yield decode(event.value, _headers(event.headers))
            except InvalidMessage as error:
                self._memory.board.malformed += 1
                log.warning("an event is put aside", reason=error.reason)

    async def _revoked(self, *_: Any, **__: Any) -> None:
        self.redrawn = False

    async def _recovered(self, *_: Any) -> None:
        """The table is complete for what is owned now. Faust would say nothing of a failure in here."""
        try:
            await self._memory.picture.redraw(self.entries())
            self.redrawn = True
        except Exception as error:
            log.error("the picture could not be made from the table", exc_info=error)
            await self.app.crash(error)


def _credentials(settings: MetricsSettings) -> Credentials | None:
    """What every client of ours shows, in Faust's words."""
    context = tls(settings)
    if not settings.kafka_uses_sasl:
        return SSLCredentials(context) if context is not None else None
    options = access(settings)
    return SASLCredentials(
        mechanism=options["sasl_mechanism"], username=options["sasl_plain_username"],
        password=options["sasl_plain_password"], ssl_context=context,
    )  # fmt: skip


def table_name(generation: int) -> str:
    return f"shards-{generation}"


def count(messages: Iterable[Message], shards: MutableMapping[bytes, bytes], memory: Memory) -> None:
    """Fold events into the table, each shard once; what was heard before changes nothing."""
    changed: dict[bytes, fold.Shard] = {}
    read: dict[bytes, fold.Shard] = {}
    changes = []
    for message in messages:
        if not isinstance(message, JobEvent):
            continue
        memory.recent.hear(message)
        key = fold.shard_key(message).encode()
        if key not in read:
            value = shards.get(key)
            read[key] = orjson.loads(value) if value is not None else fold.empty_shard()
        change = fold.into_shard(message, read[key])
        if change is not None:
            changed[key] = read[key]
            changes.append((message.store, change))
    for key, shard in changed.items():
        shards[key] = orjson.dumps(shard)
    for store, change in changes:
        memory.picture.change(store, change)


def _headers(headers: Any) -> list[tuple[str, bytes]]:
    pairs = headers.items() if isinstance(headers, dict) else (headers or ())
    return [(name if isinstance(name, str) else name.decode(), value) for name, value in pairs]
