"""Reclaims lost jobs: lost leases, unclaimed tasks and user actions without an event."""

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
    """Requeues jobs whose worker died, lost its lease or never claimed them.

    It also publishes missing events of user actions again, and settles all these jobs.
    `session_began_at` is seconds of the monotonic clock.
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
        lost = await self._reclaim_lost_leases()
        unclaimed = await self._repository.requeue_unclaimed(self._settings.forward_timeout_s)
        if unclaimed:
            log.warning("tasks not claimed, jobs requeued", jobs=len(unclaimed))
        changed = await self._republish_user_actions()
        await self._settler.settle_jobs(lost + unclaimed + changed)

    async def reclaim_jobs_of(self, dead_workers: Sequence[str]) -> None:
        """Requeue the jobs of dead workers without waiting for the end of their leases."""
        await self._dispatcher.wait_idle()
        await self._settler.settle_jobs(await self._reclaim_lost_leases(dead_workers))

    async def _reclaim_lost_leases(self, dead_workers: Sequence[str] = ()) -> list[UUID]:
        """Requeue jobs with a lost lease, and release the cancelled ones. Returns all these jobs.

        A lease is lost when its worker is dead or when it has expired.
        """
        grace_s = self._lease_grace_s()
        if grace_s is None and not dead_workers:
            return []
        requeued = await self._repository.requeue_lost_jobs(grace_s, dead_workers)
        for row in requeued:
            is_dead = row["worker"] in dead_workers
            event = "worker dead, job requeued" if is_dead else "lease expired, job requeued"
            log.warning(event, **_log_fields(row))
        released = await self._repository.release_cancelled_leases(grace_s, dead_workers)
        for row in released:
            log.warning(
                "lease of cancelled job lost", **_log_fields(row), in_doubt=row["new_in_doubt"]
            )
        await self._publisher.publish_all(
            [
                messages.lost_job_event(row, is_worker_dead=row["worker"] in dead_workers)
                for row in requeued
            ]
            + list(map(messages.current_state_event, released))
        )
        return [row["id"] for row in [*requeued, *released]]

    def _lease_grace_s(self) -> float | None:
        """Return after how many seconds an expired lease is lost; `None`: not yet.

        During the first `lease_s` seconds of a leader session no lease is: PostgreSQL may have been
        unavailable before, so live workers could not renew their leases.
        """
        if time.monotonic() - self._session_began_at < self._settings.lease_s:
            return None
        return self._settings.lease_grace_s

    async def _republish_user_actions(self) -> list[UUID]:
        """Publish user actions again: ingest may have failed to publish their events."""
        changed = await self._user_actions.fetch_changed_jobs()
        if changed:
            rows = await self._repository.fetch_job_states(changed)
            await self._publisher.publish_all(list(map(messages.current_state_event, rows)))
        return changed


def _log_fields(row: Row) -> dict[str, object]:
    return {"job": str(row["id"]), "store": row["store"], "worker": row["worker"]}
