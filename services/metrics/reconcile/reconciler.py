"""Compares what was counted with PostgreSQL, now and then; `rules/drift.py` says how it tells drift from delay.

One process of all does it: the one that owns the first partition of the results.
"""

import asyncio
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.counting.rules.aggregate import Aggregate
from services.metrics.reconcile import rules
from services.metrics.settings import MetricsSettings
from shared.kafka import clients
from shared.kafka.topics import RESULTS
from shared.observability.log import get_logger
from shared.runtime.postgres import ALL_STORES, STORE_SETTING, UNAVAILABLE_ERRORS, load_queries

log = get_logger(__name__)

_QUERIES = load_queries(Path(__file__).parent / "sql" / "reconcile.sql")
_QUERY_WITHIN_S = 20.0


class Reconciler:
    """`total` is the whole of all processes; `mine` whether this process is the one to compare, and all is counted."""

    def __init__(
        self,
        settings: MetricsSettings,
        *,
        total: Callable[[], Aggregate],
        mine: Callable[[], bool],
        monitored: MonitoredValues,
    ) -> None:
        self._settings = settings
        self._total = total
        self._mine = mine
        self._watched = monitored
        self._previous: rules.Comparison | None = None

    async def run(self) -> None:
        """Until cancelled."""
        if self._settings.database_url is None:
            log.warning("DATABASE_URL is not set: what is counted is not compared with PostgreSQL")
            return
        while True:
            await asyncio.sleep(self._settings.reconcile_every_s)
            if not self._mine():
                self._previous = self._watched.drift = None
                continue
            try:
                await self._compare()
            except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError, KafkaError) as error:
                self._watched.drift = None  # it may be anything by now
                log.warning(
                    "could not compare with PostgreSQL", reason=f"{type(error).__name__}: {error}"
                )

    async def _compare(self) -> None:
        now = datetime.now(UTC)
        hours = rules.hours_to_compare(await self._oldest_event(), now.timestamp())
        before = deepcopy(self._total()["cohorts"])
        truth = await self._truth(hours)
        await asyncio.sleep(self._settings.reconcile_settle_s)
        after = self._total()["cohorts"]
        if not self._mine():
            return
        self._previous = rules.compare(before, truth, after, hours, now, self._previous)
        found = self._watched.drift = self._previous.drift
        if found is not None and (found.jobs or found.cost_nanousd):
            log.error(
                "counted other than PostgreSQL has it",
                jobs=found.jobs,
                cost_usd=found.cost_nanousd / 1e9,
            )

    async def _truth(self, hours: range) -> rules.Cohorts:
        assert self._settings.database_url is not None
        connection = await asyncpg.connect(
            self._settings.database_url.get_secret_value(),
            timeout=_QUERY_WITHIN_S,
            command_timeout=_QUERY_WITHIN_S,
            server_settings={STORE_SETTING: ALL_STORES},
        )
        try:
            since = datetime.fromtimestamp(hours.start * 3600, UTC)
            rows = await connection.fetch(_QUERIES["cohorts"], since)
            return rules.cohorts_of_rows(dict(row) for row in rows)
        finally:
            await connection.close()

    async def _oldest_event(self) -> float | None:
        """When the first record was written of those partitions that have lost some to retention."""
        name = clients.namespace(self._settings).topic(RESULTS)
        partitions = [TopicPartition(name, number) for number in range(RESULTS.partitions)]
        async with clients.create_consumer(self._settings) as consumer:
            begins, ends = (
                await consumer.beginning_offsets(partitions),
                await consumer.end_offsets(partitions),
            )
            cut = [partition for partition in partitions if begins[partition] > 0]
            if any(begins[partition] == ends[partition] for partition in cut):
                return datetime.now(UTC).timestamp()  # all of it is gone, as of now
            consumer.assign(cut)
            times: list[float] = []
            for partition in cut:
                consumer.seek(partition, begins[partition])
                found = await consumer.getmany(partition, timeout_ms=5_000, max_records=1)
                times += [
                    record.timestamp / 1000 for records in found.values() for record in records
                ]
            missed = len(times) < len(cut)
        return datetime.now(UTC).timestamp() if missed else max(times, default=None)
