"""`python -m services.scheduler retell`: after Kafka has lost its data, tells blog.results once more what became of the
jobs, so that metrics counts them.

Before the services start on the empty Kafka: what has ended since would make older ends look like repeats.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from services.scheduler.store import Row
from shared.job import ENDED, Status
from shared.kafka import Outgoing, Publisher
from shared.messages import EventKind, JobEvent, Usage
from shared.postgres import load_queries
from shared.topics import RESULTS

_QUERIES = load_queries(Path(__file__).parent / "sql" / "recovery.sql")
_BATCH = 500
_KINDS = {Status.PENDING: EventKind.ADMITTED, Status.PROCESSING: EventKind.STARTED}


async def retell(pool: asyncpg.Pool, publisher: Publisher, *, since: datetime) -> int:
    """Of jobs that were asked for since then, one event each: how many."""
    told = 0
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        cursor = await connection.cursor(_QUERIES["life"], since)
        while rows := await cursor.fetch(_BATCH):
            await publisher.publish_all(_events(rows))
            told += len(rows)
    return told


def _events(rows: Sequence[Row]) -> list[Outgoing]:
    events = map(_event, rows)
    return [Outgoing(topic=RESULTS, key=event.store, message=event) for event in events]


def _event(row: Row) -> JobEvent:
    status = Status(row["status"])
    return JobEvent(
        job=row["id"], store=row["store"], kind=EventKind.ENDED if status in ENDED else _KINDS[status], status=status,
        attempt=row["attempt"], at=row["finished_at"] or datetime.now(UTC), created_at=row["created_at"],
        started_at=row["started_at"], worker=row["worker"], error=row["error"], not_before=row["not_before"],
        usage=Usage(
            input_tokens=row["input_tokens"], output_tokens=row["output_tokens"], images=row["images"],
            cost_nanousd=row["cost_nanousd"], in_doubt=row["in_doubt"],
        ),
    )  # fmt: skip
