"""The Faust app: two streams and one table, from which the rest of the service reads.

The table's entries are shards: a part of one store's jobs together with their aggregate. The
counters and the state that detects repeats are one value, so no crash can separate them. Entries
belong to the partition of their events, so several processes share them as Kafka shares the
partitions.
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

from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.counting import gap_reader
from services.metrics.counting.rules import fold
from services.metrics.counting.rules.timeline import RecentJobs
from services.metrics.counting.rules.validation import validate_message
from services.metrics.counting.shards import ShardTable
from services.metrics.counting.stats_view import StatsView
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

_BATCH_EVENTS = 250
_BATCH_WITHIN_S = 0.1
"""The longest time that a received event waits for its batch."""
_CHANGELOG_BUFFER = 5_000
"""The most changes that may wait for the changelog.

Faust's default of 100 is less than one batch.
"""

_EXIT_BROKEN = 1

_RAW: dict[str, Any] = {
    "key_type": bytes,
    "key_serializer": "raw",
    "value_type": bytes,
    "value_serializer": "raw",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalState:
    """All that this process keeps in memory."""

    reports: LatestReports
    stats: StatsView
    recent: RecentJobs


class EventCounter:
    """Builds the Faust app, not started.

    The topics and the changelog of `generation` must exist before it starts.
    """

    def __init__(
        self, settings: MetricsSettings, local: LocalState, *, generation: int, folder: Path
    ) -> None:
        self._settings = settings
        self._local = local
        names = clients.namespace(settings)
        self.app = app = faust.App(
            names.group(METRICS_GROUP),
            broker=[f"kafka://{server}" for server in settings.kafka_bootstrap_servers.split(",")],
            broker_credentials=_faust_credentials(settings),
            store="rocksdb://?driver=rocksdict",
            datadir=str(folder),
            canonical_url=settings.own_url,
            topic_partitions=RESULTS.partitions,
            topic_replication_factor=1,
            topic_disable_leader=True,
            table_standby_replicas=0,
            processing_guarantee="at_least_once",
            broker_session_timeout=15.0,
            producer_linger=0.02,  # sends the changes of several events together
            consumer_auto_offset_reset="earliest",
            web_enabled=False,
            stream_wait_empty=True,  # counts the events in progress before a partition moves away
            autodiscover=False,
            origin="services.metrics",
        )
        results = app.topic(names.topic(RESULTS), partitions=RESULTS.partitions, **_RAW)
        reports = app.topic(names.topic(WORKERS), partitions=WORKERS.partitions, **_RAW)
        table = app.Table(
            table_name(generation), partitions=RESULTS.partitions, key_type=bytes, value_type=bytes
        )
        table.on_recover(self._on_table_recovered)
        self._shards = ShardTable(table)
        self._changelog = f"{names.group(METRICS_GROUP)}-{table_name(generation)}-changelog"
        self._results = names.topic(RESULTS)
        self._ends_at_assignment: dict[int, int] = {}
        """By partition: its end offset when this process got it.

        Earlier events may be counted already.
        """
        self._next_offset: dict[int, int] = {}
        """By partition: the first offset that is not counted, since the assignment."""
        self._assignment = 0
        self.stats_are_current = False
        """Whether the statistics view covers the partitions that this process owns now."""
        app.on_partitions_revoked.connect(self._on_partitions_revoked, weak=False)
        app.agent(results, name="results")(self._count_results)
        app.agent(reports, name="reports")(self._apply_reports)
        app.producer.buffer.max_messages = _CHANGELOG_BUFFER

    def remove_faust_monitor(self) -> None:
        """Remove Faust's monitor, which measures every event for a page that is not served.

        Call after the start.
        """
        self.app.sensors.remove(self.app.monitor)

    def owned_partitions(self) -> list[int]:
        """Return the partitions of the results that this process counts."""
        owned = self.app.assignor.assigned_actives()
        return sorted(tp.partition for tp in owned if tp.topic == self._changelog)

    def peer_addresses(self) -> list[str]:
        """Return the addresses of the other metrics processes, as Faust's assignment lists them."""
        addresses = self.app.router.tables_metadata()
        return sorted({str(url) for url in addresses} - {str(self.app.conf.canonical_url)})

    async def _count_results(self, stream: Any) -> None:
        async for events in stream.take_events(_BATCH_EVENTS, within=_BATCH_WITHIN_S):
            by_partition: dict[int, list[Any]] = defaultdict(list)
            for event in events:
                by_partition[event.message.partition].append(event)
            try:
                for partition, group in by_partition.items():
                    await self._count_partition(stream, partition, group)
            except Exception:
                log.critical(
                    "counting failed, perhaps because the disk is full, exiting",
                    exc_info=True,
                )
                # Exits like a kill: an orderly stop would commit events that are not counted.
                os._exit(_EXIT_BROKEN)
            await self._wait_for_producer()

    async def _count_partition(self, stream: Any, partition: int, group: list[Any]) -> None:
        """Count the events of one partition, and the skipped ones in each gap of the offsets."""
        stream._set_current_event(group[-1])  # the table writes to the current event's partition
        expected = (
            self._next_offset[partition]
            if partition in self._next_offset
            else self._shards.counted_offset()
        )
        for offset in (event.message.offset for event in group):  # a rebalance may split a group
            if offset > expected:
                skipped = await gap_reader.read_gap(self._settings, partition, expected, offset)
                count_events(skipped, self._shards, self._local, save_all=True)
            expected = max(expected, offset + 1)
        before, after = _split_at_offset(group, self._ends_at_assignment.get(partition, 0))
        count_events(
            self._valid_messages(before, JobEvent), self._shards, self._local, save_all=True
        )
        count_events(self._valid_messages(after, JobEvent), self._shards, self._local)
        self._next_offset[partition] = expected
        self._shards.save_counted_offset(expected)

    async def _wait_for_producer(self) -> None:
        """Wait until Kafka's client has all changes: a commit waits for those records only."""
        while self.app.producer.buffer.size:
            await asyncio.sleep(0.001)

    async def _apply_reports(self, stream: Any) -> None:
        async for event in stream.events():
            for message in self._valid_messages([event], WorkerReport, SchedulerReport):
                assert isinstance(message, WorkerReport | SchedulerReport)  # mypy joins the types
                self._local.reports.add_report(message)

    def _valid_messages(self, events: Iterable[Any], *kinds: type[M]) -> Iterator[M]:
        """Yield the valid messages of these kinds. Counts and skips invalid ones.

        The scheduler reads the same topics and sends invalid records to the dead letter queue.
        """
        now = datetime.now(UTC)
        for event in events:
            try:
                yield validate_message(
                    decode_message(event.value, _type_header(event.headers)), now, *kinds
                )
            except InvalidMessage as error:
                self._local.reports.malformed += 1
                log.warning("invalid event skipped", reason=error.reason)

    async def _end_offsets(self) -> dict[int, int]:
        wanted = [tp for tp in self.app.consumer.assignment() if tp.topic == self._results]
        return {
            tp.partition: end for tp, end in (await self.app.consumer.highwaters(*wanted)).items()
        }

    async def _on_partitions_revoked(self, *_: Any, **__: Any) -> None:
        self._assignment += 1
        self.stats_are_current = False
        self._next_offset.clear()
        self._shards.clear_cache()

    async def _on_table_recovered(self, *_: Any) -> None:
        """Rebuild the statistics view from the recovered table.

        Crashes the app on failure, which Faust would hide.
        """
        assignment = self._assignment
        try:
            self._shards.clear_cache()
            self._next_offset.clear()
            self._ends_at_assignment = await self._end_offsets()
            entries = self._shards.entries()
            self.stats_are_current = await self._local.stats.rebuild(
                entries, wanted=lambda: assignment == self._assignment
            )
        except Exception as error:
            # After a rebalance the failure does not matter: Faust calls this method again.
            if assignment == self._assignment:
                log.error("statistics not restored", exc_info=error)
                await self.app.crash(error)


def _split_at_offset(events: list[Any], offset: int) -> tuple[list[Any], list[Any]]:
    """Return the events before an offset, and the rest."""
    number = next(
        (number for number, event in enumerate(events) if event.message.offset >= offset),
        len(events),
    )
    return events[:number], events[number:]


def _faust_credentials(settings: MetricsSettings) -> Credentials | None:
    """Translate the Kafka credentials into Faust's form."""
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


def count_events(
    events: Iterable[JobEvent], shards: ShardTable, local: LocalState, *, save_all: bool = False
) -> None:
    """Fold events into the table, and write each shard once. Repeated events change nothing.

    `save_all` also saves unchanged shards: a killed process may have written them to its disk but
    not to the changelog.
    """
    changed: dict[bytes, fold.Shard] = {}
    changes = []
    for event in events:
        local.recent.add_event(event)
        key = fold.shard_key(event).encode()
        shard = shards.load(key) if key not in changed else changed[key]
        change = fold.fold_event(event, shard)
        if change is not None:
            changes.append((event.store, change))
        if change is not None or save_all:
            changed[key] = shard
    for key, shard in changed.items():
        shards.save(key, shard)
    for store, change in changes:
        local.stats.apply_change(store, change)


def _type_header(headers: Any) -> list[tuple[str, bytes]]:
    """Return the header that names the message type. Faust gives all headers as a dict, or None."""
    message_type = (headers or {}).get("ce_type")
    return [("ce_type", message_type)] if message_type is not None else []
