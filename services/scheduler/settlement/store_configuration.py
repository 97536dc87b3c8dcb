"""Store configuration: the accounts and weights that operators set."""

from datetime import datetime

from services.scheduler.fair_queue.queue import FairQueue
from services.scheduler.repository import SchedulerRepository
from shared.observability.log import get_logger

log = get_logger(__name__)


class StoreConfiguration:
    """`configured_until` is the time of the newest configuration that the queue already has."""

    def __init__(
        self, repository: SchedulerRepository, queue: FairQueue, configured_until: datetime
    ) -> None:
        self._repository = repository
        self._queue = queue
        self._configured_until = configured_until

    async def apply_changes(self) -> None:
        """Apply the accounts and weights that changed since the last call."""
        for row in await self._repository.fetch_configured_stores(self._configured_until):
            self._queue.configure_store(
                row["store"],
                account=row["account"],
                weight=row["weight"],
                account_weight=row["account_weight"],
            )
            self._configured_until = row["configured_at"]
            log.info(
                "store configured", store=row["store"], account=row["account"], weight=row["weight"]
            )
