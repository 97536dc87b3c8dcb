"""What people have changed: jobs cancelled, or asked for again. ingest writes the row, then says so on blog.results.

The event only hurries: the rows are looked for at every sweep, so that a crash between the two loses nothing.
"""

from datetime import datetime, timedelta
from uuid import UUID

from services.scheduler.repository import SchedulerRepository

_OVERLAP = timedelta(seconds=10)
"""A change bears the time at which its transaction began: one that commits late is older than what was seen before."""


class UserActionLog:
    """One leader's. `begin` before the backlog is read: what was changed before that is in it."""

    def __init__(self, store: SchedulerRepository) -> None:
        self._store = store
        self._since: datetime
        self._seen: dict[UUID, datetime] = {}

    async def begin(self) -> None:
        self._since = await self._store.clock() - _OVERLAP

    async def news(self) -> list[UUID]:
        """The jobs that were changed since the last call."""
        rows = await self._store.intervened(self._since)
        new = [row["id"] for row in rows if self._seen.get(row["id"]) != row["intervened_at"]]
        if rows:
            self._since = max(self._since, rows[-1]["intervened_at"] - _OVERLAP)
        self._seen = {row["id"]: row["intervened_at"] for row in rows}
        return new
