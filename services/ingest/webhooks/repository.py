"""SQL calls about webhook deliveries and their secrets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg

from services.ingest.jobs import view
from services.ingest.webhooks import rules
from services.ingest.webhooks.rules import AttemptOutcome, NextState
from shared.domain.api_keys import get_or_create_webhook_secret
from shared.domain.stores import ALL_STORES
from shared.runtime.postgres import connection_for_store, load_queries

_QUERIES = load_queries(Path(__file__).parent / "sql" / "webhooks.sql")

Row = asyncpg.Record


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedDelivery:
    """A due delivery that this process may send until its lease expires.

    An attempt counts once its outcome is recorded.
    """

    id: UUID
    store: str
    url: str
    payload: str
    attempt: int
    """The number of the next attempt, from 1."""
    lease_until: datetime
    """Identifies the lease: an outcome recorded under an older lease changes nothing."""


class WebhookRepository:
    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add_deliveries(self, jobs: Sequence[UUID]) -> int:
        """Add deliveries for the jobs that have ended; return the number of new ones."""
        async with connection_for_store(self._pool, ALL_STORES) as connection:
            rows = await connection.fetch(_QUERIES["list_ended_jobs"], jobs)
            if not rows:
                return 0
            now = datetime.now(UTC)
            ended = [dict(row) for row in rows]
            payloads = [
                rules.payload(view.job_summary(job, now), job["finished_at"] or now).decode()
                for job in ended
            ]
            new = await connection.fetch(
                _QUERIES["add_deliveries"],
                [rules.delivery_id(job["id"], job["attempt"]) for job in ended],
                [job["id"] for job in ended],
                [job["store"] for job in ended],
                [job["url"] for job in ended],
                payloads,
            )
        return len(new)

    async def list_unannounced_cancellations(self) -> list[UUID]:
        """Return jobs cancelled within the last hour that have no delivery yet."""
        async with connection_for_store(self._pool, ALL_STORES) as connection:
            rows = await connection.fetch(_QUERIES["list_unannounced_cancellations"])
        return [row["id"] for row in rows]

    async def lease_due_deliveries(
        self, limit: int, *, lease_s: float, per_store: int, sending: Sequence[str]
    ) -> list[LeasedDelivery]:
        """Lease up to `limit` due deliveries for `lease_s` seconds.

        `sending` holds the store of each delivery in progress; these count towards `per_store`.
        """
        async with connection_for_store(self._pool, ALL_STORES) as connection:
            rows = await connection.fetch(
                _QUERIES["lease_due_deliveries"], limit, lease_s, per_store, sending
            )
        return [LeasedDelivery(**dict(row)) for row in rows]

    async def list_secrets(self, store: str) -> list[str]:
        """Return the secrets that sign the store's webhooks; creates the first one."""
        async with connection_for_store(self._pool, store) as connection:
            rows = await connection.fetch(_QUERIES["list_secrets"], store)
            secrets = [row["secret"] for row in rows]
            return secrets or [await get_or_create_webhook_secret(connection, store)]

    async def record_attempt(
        self,
        delivery: LeasedDelivery,
        outcome: AttemptOutcome,
        next_state: NextState,
        *,
        at: datetime,
        seconds: float,
    ) -> None:
        async with connection_for_store(self._pool, delivery.store) as connection:
            await connection.execute(
                _QUERIES["record_attempt"],
                delivery.id,
                delivery.lease_until,
                next_state.state,
                next_state.pause_s,
                at,
                outcome.status,
                outcome.error,
                seconds,
            )

    async def list_deliveries(
        self, store: str, *, job: UUID | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Row]:
        created_at, delivery = after or (None, None)
        async with connection_for_store(self._pool, store) as connection:
            return await connection.fetch(
                _QUERIES["list_deliveries"], store, job, created_at, delivery, limit
            )

    async def replay_delivery(self, delivery: UUID, store: str | None) -> bool:
        """Queue a delivery again; false when the store (`None`: any store) has no such delivery."""
        async with connection_for_store(self._pool, store or ALL_STORES) as connection:
            return (
                await connection.fetchval(_QUERIES["replay_delivery"], delivery, store) is not None
            )
