"""`python -m services.scheduler retell`: after Kafka has lost its data, tells blog.results once more what became of the
jobs, so that metrics counts them.

Before the services start on the empty Kafka: what has ended since would make older ends look like repeats.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import asyncpg

from services.scheduler.repository import Row
from shared.domain.job_events import event_from_row
from shared.kafka.publisher import Outgoing, Publisher
from shared.kafka.topics import RESULTS
from shared.runtime.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "recovery.sql")
_BATCH = 500


async def republish_job_states(pool: asyncpg.Pool, publisher: Publisher, *, since: datetime) -> int:
    """Of jobs that were asked for since then, one event each: how many."""
    told = 0
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        cursor = await connection.cursor(_QUERIES["life"], since)
        while rows := await cursor.fetch(_BATCH):
            await publisher.publish_all(_events(rows))
            told += len(rows)
    return told


def _events(rows: Sequence[Row]) -> list[Outgoing]:
    events = map(event_from_row, rows)
    return [Outgoing(topic=RESULTS, key=event.store, message=event) for event in events]
