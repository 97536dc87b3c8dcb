"""`python -m services.scheduler retell`: republishes job states after Kafka lost its data.

The events go to blog.results, so that metrics counts the jobs again. Run it before the services
start on the empty Kafka: metrics would take older ends for repeats of newer ones.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import asyncpg

from services.scheduler.repository import Row
from shared.domain.job_events import event_from_row
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.kafka.topics import RESULTS
from shared.runtime.postgres import load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "recovery.sql")
_BATCH = 500


async def republish_job_states(pool: asyncpg.Pool, publisher: Publisher, *, since: datetime) -> int:
    """Publish one event for each job created after `since`. Returns the number of jobs."""
    jobs = 0
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        cursor = await connection.cursor(_QUERIES["job_states"], since)
        while rows := await cursor.fetch(_BATCH):
            await publisher.publish_all(_state_events(rows))
            jobs += len(rows)
    return jobs


def _state_events(rows: Sequence[Row]) -> list[OutgoingMessage]:
    events = map(event_from_row, rows)
    return [OutgoingMessage(topic=RESULTS, key=event.store, message=event) for event in events]
