"""The Faust app: two streams and one table. Everything else of the service reads from here.

The table's entries are shards: a part of one store's jobs together with what they add up to. What was counted and what
tells a repeat from news are one value, so that no crash can part them. Entries follow the partition of their events:
several processes split them as Kafka splits the partitions.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import faust
from faust.auth import Credentials, SASLCredentials, SSLCredentials

from services.metrics.cluster.latest_reports import Board
from services.metrics.counting import gap_reader
from services.metrics.counting.rules import fold
from services.metrics.counting.rules.timeline import Recent
from services.metrics.counting.rules.validation import believed
from services.metrics.counting.shards import Shards
from services.metrics.counting.stats_view import Picture
from services.metrics.settings import MetricsSettings
from shared.domain.errors import InvalidMessage
from shared.domain.messages import JobEvent, Message, SchedulerReport, WorkerReport
from shared.kafka import clients
from shared.kafka.access import client_options, create_tls_context
from shared.kafka.envelope import decode_message
from shared.kafka.topics import METRICS_GROUP, RESULTS, WORKERS
from shared.observability.log import get_logger

log = get_logger(__name__)
M = TypeVar("M", bound=Message)

_BATCH = 250
_WITHIN_S = 0.1
"""An event is counted at most so long after it came."""
_BUFFERED = 5_000
"""Changes that may wait to be sent to the changelog; Faust's own 100 is less than one batch."""

_EXIT_BROKEN = 1

_RAW: dict[str, Any] = {
    "key_type": bytes,
    "key_serializer": "raw",
    "value_type": bytes,
    "value_serializer": "raw",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What this process has in memory of what it heard."""

    board: Board
    picture: Picture
    recent: Recent


class Counting:
    """The app, not started. The topics, and the changelog of `generation`, must exist before it starts."""

    def __init__(
        self, settings: MetricsSettings, memory: Memory, *, generation: int, folder: Path
    ) -> None:
        self._settings = settings
        self._memory = memory
        names = clients.namespace(settings)
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
            producer_linger=0.02,  # changes of several events travel together
            consumer_auto_offset_reset="earliest",
            web_enabled=False,
            stream_wait_empty=True,  # what is under way is counted before another process takes the partition over
            autodiscover=False,
            origin="services.metrics",
        )
        results = app.topic(names.topic(RESULTS), partitions=RESULTS.partitions, **_RAW)
        reports = app.topic(names.topic(WORKERS), partitions=WORKERS.partitions, **_RAW)
        table = app.Table(
            table_name(generation), partitions=RESULTS.partitions, key_type=bytes, value_type=bytes
        )
        table.on_recover(self._recovered)
        self._shards = Shards(table)
        self._changelog = f"{names.group(METRICS_GROUP)}-{table_name(generation)}-changelog"
        self._results = names.topic(RESULTS)
        self._news_from: dict[int, int] = {}
        """By partition: where it ended when this process got it. What came before may have been counted already."""
        self._next: dict[int, int] = {}
        """By partition: up to which offset all is counted, since it was assigned."""
        self._assignment = 0
        self.redrawn = False
        """Whether the picture shows the partitions that are owned now."""
        app.on_partitions_revoked.connect(self._revoked, weak=False)
        app.agent(results, name="results")(self._count)
        app.agent(reports, name="reports")(self._report)
        app.producer.buffer.max_messages = _BUFFERED

    def started(self) -> None:
        """Call when the app has started: Faust's monitor would measure every event, for a page that is not served."""
        self.app.sensors.remove(self.app.monitor)

    def partitions(self) -> list[int]:
        """The partitions of the results that this process counts."""
        owned = self.app.assignor.assigned_actives()
        return sorted(tp.partition for tp in owned if tp.topic == self._changelog)

    def peers(self) -> list[str]:
        """Where the other processes of the group listen: each tells its address in Faust's own assignment."""
        told = self.app.router.tables_metadata()
        return sorted({str(url) for url in told} - {str(self.app.conf.canonical_url)})

    async def _count(self, stream: Any) -> None:
        async for events in stream.take_events(_BATCH, within=_WITHIN_S):
            by_partition: dict[int, list[Any]] = defaultdict(list)
            for event in events:
                by_partition[event.message.partition].append(event)
            try:
                for partition, group in by_partition.items():
                    await self._count_group(stream, partition, group)
            except Exception:
                log.critical(
                    "counting failed, on a full disk perhaps: this process ends at once",
                    exc_info=True,
                )
                os._exit(
                    _EXIT_BROKEN
                )  # as a kill would: an orderly end would commit what is not counted
            await self._hand_over()

    async def _count_group(self, stream: Any, partition: int, group: list[Any]) -> None:
        """Count what came of one partition, and before it what should have come."""
        stream._set_current_event(group[-1])  # an entry goes where the current event came from
        expected = self._next[partition] if partition in self._next else self._shards.position()
        for offset in (
            event.message.offset for event in group
        ):  # the partition may have moved in the middle
            if offset > expected:
                left_out = await gap_reader.read(self._settings, partition, expected, offset)
                count(left_out, self._shards, self._memory, save_all=True)
            expected = max(expected, offset + 1)
        before, after = _split(group, self._news_from.get(partition, 0))
        count(self._messages(before, JobEvent), self._shards, self._memory, save_all=True)
        count(self._messages(after, JobEvent), self._shards, self._memory)
        self._next[partition] = expected
        self._shards.save_position(self._next[partition])

    async def _hand_over(self) -> None:
        """Wait until Kafka's client has all changes: a commit waits for what the client has, and for nothing else."""
        while self.app.producer.buffer.size:
            await asyncio.sleep(0.001)

    async def _report(self, stream: Any) -> None:
        async for event in stream.events():
            for message in self._messages([event], WorkerReport, SchedulerReport):
                assert isinstance(
                    message, WorkerReport | SchedulerReport
                )  # mypy sees what both have in common
                self._memory.board.hear(message)

    def _messages(self, events: Iterable[Any], *kinds: type[M]) -> Iterator[M]:
        """What the events say; what cannot be understood, or believed, is counted and left where it is. (The scheduler,
        which reads the same topics, puts it to the dead letters.)"""
        now = datetime.now(UTC)
        for event in events:
            try:
                yield believed(decode_message(event.value, _kind(event.headers)), now, *kinds)
            except InvalidMessage as error:
                self._memory.board.malformed += 1
                log.warning("an event is put aside", reason=error.reason)

    async def _ends(self) -> dict[int, int]:
        wanted = [tp for tp in self.app.consumer.assignment() if tp.topic == self._results]
        return {
            tp.partition: end for tp, end in (await self.app.consumer.highwaters(*wanted)).items()
        }

    async def _revoked(self, *_: Any, **__: Any) -> None:
        self._assignment += 1
        self.redrawn = False
        self._next.clear()
        self._shards.forget()

    async def _recovered(self, *_: Any) -> None:
        """The table is complete for what is owned now. Faust would say nothing of a failure in here."""
        assignment = self._assignment
        try:
            self._shards.forget()
            self._next.clear()
            self._news_from = await self._ends()
            entries = self._shards.entries()
            self.redrawn = await self._memory.picture.redraw(
                entries, wanted=lambda: assignment == self._assignment
            )
        except Exception as error:
            if (
                assignment == self._assignment
            ):  # else the partitions moved under its hands, and it is called again
                log.error("the picture could not be made from the table", exc_info=error)
                await self.app.crash(error)


def _split(events: list[Any], offset: int) -> tuple[list[Any], list[Any]]:
    """Those before an offset, and the rest."""
    number = next(
        (number for number, event in enumerate(events) if event.message.offset >= offset),
        len(events),
    )
    return events[:number], events[number:]


def _credentials(settings: MetricsSettings) -> Credentials | None:
    """What every client of ours shows, in Faust's words."""
    context = create_tls_context(settings)
    if not settings.kafka_uses_sasl:
        return SSLCredentials(context) if context is not None else None
    options = client_options(settings)
    return SASLCredentials(
        mechanism=options["sasl_mechanism"],
        username=options["sasl_plain_username"],
        password=options["sasl_plain_password"],
        ssl_context=context,
    )


def table_name(generation: int) -> str:
    return f"shards-{generation}"


def count(
    messages: Iterable[JobEvent], shards: Shards, memory: Memory, *, save_all: bool = False
) -> None:
    """Fold events into the table, each shard once; what was heard before changes nothing.

    `save_all` saves the shards of these too: a process that was killed may have them on its disk, and not have told
    the changelog.
    """
    changed: dict[bytes, fold.Shard] = {}
    changes = []
    for message in messages:
        memory.recent.hear(message)
        key = fold.shard_key(message).encode()
        shard = shards.get(key) if key not in changed else changed[key]
        change = fold.into_shard(message, shard)
        if change is not None:
            changes.append((message.store, change))
        if change is not None or save_all:
            changed[key] = shard
    for key, shard in changed.items():
        shards.save(key, shard)
    for store, change in changes:
        memory.picture.change(store, change)


def _kind(headers: Any) -> list[tuple[str, bytes]]:
    """The one header that a message is read by; Faust gives all of them as a dict, and None for none."""
    kind = (headers or {}).get("ce_type")
    return [("ce_type", kind)] if kind is not None else []
