"""Moves the quota between workers with its partitions, as checkpoints beside the offsets."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from services.generator.quota.checkpoint import (
    LOOK_BACK_S,
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    restore_level,
)
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.repository import ProviderCallRepository
from shared.observability.log import get_logger
from shared.runtime.postgres import retry_while_unavailable

log = get_logger(__name__)


class PartitionQuota:
    """The quota of the owned partitions in all limiters of a worker.

    A worker with n of `total` partitions owns n / `total` of each rate limit.
    """

    def __init__(
        self,
        *,
        owner: str,
        limiters: Sequence[ProviderLimiter],
        calls: ProviderCallRepository,
        total: int,
        burst_s: float,
        skew_s: float,
    ) -> None:
        self._owner = owner
        self._limiters = limiters
        self._calls = calls
        self._total = total
        self._burst_s = burst_s
        self._skew_s = skew_s
        self._owned = 0

    def pause_spending(self) -> None:
        """Spend nothing until the next restore: the partitions are about to get new owners."""
        for limiter in self._limiters:
            limiter.pause_grants()

    def own_share_until(self, until: float) -> None:
        """Allow spending until `until` (loop clock), when Kafka may reassign the partitions."""
        for limiter in self._limiters:
            limiter.own_share_until(until)

    def build_checkpoint(self) -> str:
        """Build the checkpoint of each owned partition: an equal part of the current levels."""
        levels = {
            f"{limiter.provider}/{resource}": level / max(self._owned, 1)
            for limiter in self._limiters
            for resource, level in limiter.levels().items()
        }
        return encode_checkpoint(Checkpoint(owner=self._owner, at=time.time(), levels=levels))

    async def restore_from_checkpoints(self, texts: Mapping[int, str]) -> None:
        """Own these partitions from now on, each with the checkpoint of its last owner."""
        checkpoints = {partition: decode_checkpoint(text) for partition, text in texts.items()}
        since = {
            partition: checkpoint.at if checkpoint else time.time() - LOOK_BACK_S
            for partition, checkpoint in checkpoints.items()
        }
        spent = await retry_while_unavailable(
            lambda: self._calls.spent_since(_to_datetimes(since)), operation="restore quota"
        )
        now, self._owned = time.time(), len(checkpoints)
        for limiter in self._limiters:
            levels = {
                resource: self._restore_level(
                    f"{limiter.provider}/{resource}", rate, checkpoints, spent, now
                )
                for resource, rate in limiter.rates().items()
            }
            limiter.assign_share(tuple(checkpoints), len(checkpoints) / self._total, levels)
            if checkpoints:
                rounded = {resource: round(level, 2) for resource, level in levels.items()}
                log.info(
                    "quota restored",
                    provider=limiter.provider,
                    partitions=len(checkpoints),
                    levels=rounded,
                )

    def _restore_level(
        self,
        name: str,
        rate: float,
        checkpoints: Mapping[int, Checkpoint | None],
        spent: Mapping[tuple[int, str], float],
        now: float,
    ) -> float:
        """Sum one limit's level over the partitions. `rate` is the account's, in units a second."""
        return sum(
            restore_level(
                checkpoint,
                name,
                spent_since=spent.get((partition, name), 0.0),
                rate=rate / self._total,
                burst_s=self._burst_s,
                reader=self._owner,
                now=now,
                skew_s=self._skew_s,
            )
            for partition, checkpoint in checkpoints.items()
        )


def _to_datetimes(since: Mapping[int, float]) -> dict[int, datetime]:
    return {partition: datetime.fromtimestamp(at, UTC) for partition, at in since.items()}
