"""User actions, that is cancels and retries, found in PostgreSQL.

ingest writes the row and then publishes the event on blog.results. The event only speeds things up:
every sweep looks for the rows, so a crash between the two loses nothing.
"""

from datetime import datetime, timedelta
from uuid import UUID

from services.scheduler.repository import SchedulerRepository

_OVERLAP = timedelta(seconds=10)
"""A row has the start time of its transaction: a late commit may be older than rows seen before."""


class UserActionPoller:
    """Finds each user action once per leader session."""

    def __init__(self, repository: SchedulerRepository, since: datetime) -> None:
        self._repository = repository
        self._since = since
        self._seen: dict[UUID, datetime] = {}

    @classmethod
    async def create_poller(cls, repository: SchedulerRepository) -> "UserActionPoller":
        """Return a poller of the actions from now on.

        Create it before reading the backlog, which holds all earlier actions.
        """
        return cls(repository, since=await repository.fetch_time() - _OVERLAP)

    async def fetch_changed_jobs(self) -> list[UUID]:
        """Return the jobs with a user action since the last call."""
        rows = await self._repository.fetch_user_actions(self._since)
        new = [row["id"] for row in rows if self._seen.get(row["id"]) != row["intervened_at"]]
        if rows:
            self._since = max(self._since, rows[-1]["intervened_at"] - _OVERLAP)
        self._seen = {row["id"]: row["intervened_at"] for row in rows}
        return new
