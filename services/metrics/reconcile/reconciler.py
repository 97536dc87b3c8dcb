"""Compares the counted jobs with PostgreSQL periodically; `rules.py` tells drift from delay.

One process compares for all: the owner of the first partition of the results.
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
from shared.domain.stores import ALL_STORES
from shared.kafka import clients
from shared.kafka.topics import RESULTS
from shared.observability.log import get_logger
from shared.runtime.postgres import STORE_SETTING, UNAVAILABLE_ERRORS, load_queries

log = get_logger(__name__)

_QUERIES = load_queries(Path(__file__).parent / "sql" / "reconcile.sql")
_QUERY_TIMEOUT_S = 20.0


class Reconciler:
    """`total` returns the cluster's aggregate.

    `may_compare` returns whether this process compares for all and every partition is counted.
    """

    def __init__(
        self,
        settings: MetricsSettings,
        *,
        total: Callable[[], Aggregate],
        may_compare: Callable[[], bool],
        monitored: MonitoredValues,
    ) -> None:
        self._settings = settings
        self._total = total
        self._may_compare = may_compare
        self._monitored = monitored
        self._previous: rules.Comparison | None = None

    async def compare_periodically(self) -> None:
        """Compare until cancelled. Returns at once without a DATABASE_URL."""
        if self._settings.database_url is None:
            log.warning("DATABASE_URL not set, counts not compared with PostgreSQL")
            return
        while True:
            await asyncio.sleep(self._settings.reconcile_every_s)
            if not self._may_compare():
                self._previous = self._monitored.drift = None
                continue
            try:
                await self._compare()
            except (*UNAVAILABLE_ERRORS, asyncpg.PostgresError, KafkaError) as error:
                self._monitored.drift = None  # an old value says nothing about now
                log.warning(
                    "dependency unavailable, retrying",
                    operation="compare with PostgreSQL",
                    reason=f"{type(error).__name__}: {error}",
                )

    async def _compare(self) -> None:
        now = datetime.now(UTC)
        hours = rules.hours_to_compare(await self._find_oldest_event(), now.timestamp())
        before = deepcopy(self._total()["cohorts"])
        truth = await self._query_cohorts(hours)
        await asyncio.sleep(self._settings.reconcile_settle_s)
        after = self._total()["cohorts"]
        if not self._may_compare():
            return
        self._previous = rules.compare(before, truth, after, hours, now, self._previous)
        drift = self._monitored.drift = self._previous.drift
        if drift is not None and (drift.jobs or drift.cost_nanousd):
            log.error(
                "counts differ from PostgreSQL",
                jobs=drift.jobs,
                cost_usd=drift.cost_nanousd / 1e9,
            )

    async def _query_cohorts(self, hours: range) -> rules.Cohorts:
        assert self._settings.database_url is not None
        connection = await asyncpg.connect(
            self._settings.database_url.get_secret_value(),
            timeout=_QUERY_TIMEOUT_S,
            command_timeout=_QUERY_TIMEOUT_S,
            server_settings={STORE_SETTING: ALL_STORES},
        )
        try:
            since = datetime.fromtimestamp(hours.start * 3600, UTC)
            rows = await connection.fetch(_QUERIES["cohorts"], since)
            return rules.cohorts_of_rows(dict(row) for row in rows)
        finally:
            await connection.close()

    async def _find_oldest_event(self) -> float | None:
        """Return the latest first-record time of all partitions that retention has cut.

        Returns `None` when no partition has lost records.
        """
        name = clients.namespace(self._settings).topic(RESULTS)
        partitions = [TopicPartition(name, number) for number in range(RESULTS.partitions)]
        async with clients.create_consumer(self._settings) as consumer:
            begins, ends = (
                await consumer.beginning_offsets(partitions),
                await consumer.end_offsets(partitions),
            )
            cut = [partition for partition in partitions if begins[partition] > 0]
            if any(begins[partition] == ends[partition] for partition in cut):
                return datetime.now(UTC).timestamp()  # a partition has lost all its records
            consumer.assign(cut)
            times: list[float] = []
            for partition in cut:
                consumer.seek(partition, begins[partition])
                found = await consumer.getmany(partition, timeout_ms=5_000, max_records=1)
                times += [
                    record.timestamp / 1000 for records in found.values() for record in records
                ]
            incomplete = len(times) < len(cut)
        return datetime.now(UTC).timestamp() if incomplete else max(times, default=None)
