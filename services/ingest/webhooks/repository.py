"""webhooks' calls to PostgreSQL, one method a query of sql/webhooks.sql."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg

from services.ingest.jobs import view
from services.ingest.webhooks import rules
from services.ingest.webhooks.rules import Outcome, Verdict
from shared.domain.api_keys import get_or_create_webhook_secret
from shared.runtime.postgres import ALL_STORES, connection_for_store, load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "webhooks.sql")

Row = asyncpg.Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One that is to be tried now, under a lease. It counts as tried once it is noted what came of it."""

    id: UUID
    store: str
    url: str
    payload: str
    attempt: int
    """The number of this one."""
    until: datetime
    """The end of the lease; by it, who comes too late is known."""


class WebhookStore:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def note(self, jobs: Sequence[UUID]) -> int:
        """Note what is to be told of jobs that have ended; how many deliveries are new."""
        async with connection_for_store(self._pool, ALL_STORES) as every:
            ended = [dict(row) for row in await every.fetch(_QUERIES["to_tell"], jobs)]
            if not ended:
                return 0
            now = datetime.now(UTC)
            said = [
                rules.payload(view.summary(job, now), job["finished_at"] or now).decode()
                for job in ended
            ]
            new = await every.fetch(
                _QUERIES["add"],
                [rules.delivery_id(job["id"], job["attempt"]) for job in ended],
                [job["id"] for job in ended],
                [job["instance_id"] for job in ended],
                [job["url"] for job in ended],
                said,
            )
        return len(new)

    async def cancelled_lately(self) -> list[UUID]:
        async with connection_for_store(self._pool, ALL_STORES) as every:
            return [row["id"] for row in await every.fetch(_QUERIES["cancelled_lately"])]

    async def take(
        self, most: int, *, for_s: float, of_one_store: int, sending: Sequence[str]
    ) -> list[Delivery]:
        """`sending` has the store of each that is on its way: they count as of one store."""
        async with connection_for_store(self._pool, ALL_STORES) as every:
            taken = await every.fetch(_QUERIES["take"], most, for_s, of_one_store, sending)
        return [Delivery(**dict(row)) for row in taken]

    async def secrets(self, store: str) -> list[str]:
        """The secrets to sign with; a store that has none gets one."""
        async with connection_for_store(self._pool, store) as rows:
            found = [row["secret"] for row in await rows.fetch(_QUERIES["secrets"], store)]
            return found or [await get_or_create_webhook_secret(rows, store)]

    async def finish(
        self,
        delivery: Delivery,
        outcome: Outcome,
        verdict: Verdict,
        *,
        at: datetime,
        seconds: float,
    ) -> None:
        async with connection_for_store(self._pool, delivery.store) as rows:
            await rows.execute(
                _QUERIES["finish"],
                delivery.id,
                delivery.until,
                verdict.state,
                verdict.pause_s,
                at,
                outcome.status,
                outcome.error,
                seconds,
            )

    async def list(
        self, store: str, *, job: UUID | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Row]:
        created_at, delivery = after or (None, None)
        async with connection_for_store(self._pool, store) as rows:
            return await rows.fetch(_QUERIES["list"], store, job, created_at, delivery, limit)

    async def replay(self, delivery: UUID, store: str | None) -> bool:
        """False when the store (None: any) has no such delivery."""
        async with connection_for_store(self._pool, store or ALL_STORES) as rows:
            return await rows.fetchval(_QUERIES["replay"], delivery, store) is not None
