"""Reclaims lost jobs: expired leases, unclaimed tasks and user actions without an event."""

import time
from collections.abc import Sequence
from uuid import UUID

from services.scheduler import messages
from services.scheduler.dispatch.dispatcher import Dispatcher
from services.scheduler.repository import Row, SchedulerRepository
from services.scheduler.settings import SchedulerSettings
from services.scheduler.settlement.settler import JobSettler
from services.scheduler.settlement.user_actions import UserActionPoller
from shared.kafka.publisher import Publisher
from shared.observability.log import get_logger

log = get_logger(__name__)


class JobReclaimer:
    """Requeues jobs whose worker lost its lease or never claimed them.

    It also publishes missing events of user actions again, and settles all these jobs.
    `session_began_at` is seconds since the epoch.
    """

    def __init__(
        self,
        *,
        settings: SchedulerSettings,
        session_began_at: float,
        repository: SchedulerRepository,
        publisher: Publisher,
        dispatcher: Dispatcher,
        settler: JobSettler,
        user_actions: UserActionPoller,
    ) -> None:
        self._settings = settings
        self._session_began_at = session_began_at
        self._repository = repository
        self._publisher = publisher
        self._dispatcher = dispatcher
        self._settler = settler
        self._user_actions = user_actions

    async def reclaim_jobs(self) -> None:
        """Requeue lost jobs, publish the missing events and settle the jobs."""
        await self._dispatcher.wait_idle()
        requeued, released = await self._sweep_expired_leases()
        unclaimed = await self._repository.requeue_unclaimed(self._settings.forward_timeout_s)
        if unclaimed:
            log.warning("tasks not claimed, jobs requeued", jobs=len(unclaimed))
        await self._publisher.publish_all(
            [
                *map(messages.expired_lease_event, requeued),
                *map(messages.current_state_event, released),
            ]
        )
        changed = await self._republish_user_actions()
        await self._settler.settle_jobs(
            [row["id"] for row in [*requeued, *released]] + unclaimed + changed
        )

    async def _sweep_expired_leases(self) -> tuple[Sequence[Row], Sequence[Row]]:
        """Requeue jobs with an expired lease, and release the cancelled ones among them.

        Does nothing during the first `lease_s` seconds of a leader session: PostgreSQL may have
        been unavailable before, so live workers could not renew their leases.
        """
        if time.time() - self._session_began_at < self._settings.lease_s:
            return [], []
        requeued = await self._repository.requeue_expired_leases(self._settings.lease_grace_s)
        for row in requeued:
            log.warning("lease expired, job requeued", **_log_fields(row))
        released = await self._repository.release_cancelled_leases(self._settings.lease_grace_s)
        for row in released:
            log.warning(
                "lease of cancelled job expired", **_log_fields(row), in_doubt=row["new_in_doubt"]
            )
        return requeued, released

    async def _republish_user_actions(self) -> list[UUID]:
        """Publish user actions again: ingest may have failed to publish their events."""
        changed = await self._user_actions.fetch_changed_jobs()
        if changed:
            rows = await self._repository.fetch_job_states(changed)
            await self._publisher.publish_all(list(map(messages.current_state_event, rows)))
        return changed


def _log_fields(row: Row) -> dict[str, object]:
    return {"job": str(row["id"]), "store": row["store"], "worker": row["worker"]}
