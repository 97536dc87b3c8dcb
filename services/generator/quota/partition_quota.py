"""Moves the quota between workers with its partitions, as checkpoints beside the offsets."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from services.generator.quota.checkpoint import (
    LOOK_BACK_S,
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    find_layout_change,
    level_after_layout_change,
    restore_level,
)
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.repository import ProviderCallRepository
from shared.domain.quota_layout import QuotaLayout
from shared.observability.log import get_logger
from shared.runtime.postgres import retry_while_unavailable

log = get_logger(__name__)


class PartitionQuota:
    """The quota of the owned partitions in all limiters of a worker.

    The quota layout says which partitions carry a limit. A worker that owns n of them owns the same
    part of the limit.
    """

    def __init__(
        self,
        *,
        owner: str,
        limiters: Sequence[ProviderLimiter],
        calls: ProviderCallRepository,
        burst_s: float,
        skew_s: float,
    ) -> None:
        self._owner = owner
        self._limiters = limiters
        self._calls = calls
        self._burst_s = burst_s
        self._skew_s = skew_s
        self._holding: list[_LimiterQuota] = []
        self._layout = QuotaLayout(partitions=0)
        self._layout_changed_at = 0.0

    def carried_calls(self) -> dict[str, int]:
        """Return how many of the largest calls each "provider/resource" carries at once."""
        return {
            name: calls
            for limiter in self._limiters
            for name, calls in limiter.carried_calls().items()
        }

    def pause_spending(self) -> None:
        """Spend nothing until the next restore: the partitions are about to get new owners."""
        for limiter in self._limiters:
            limiter.pause_grants()

    def own_share_until(self, until: float) -> None:
        """Allow spending until `until` (loop clock), when Kafka may reassign the partitions."""
        for limiter in self._limiters:
            limiter.own_share_until(until)

    def build_checkpoint(self) -> str:
        """Build the checkpoint of each owned partition.

        Each carrying one among them has an equal part of the current levels.
        """
        levels = {
            f"{quota.limiter.provider}/{resource}": level / len(quota.owned)
            for quota in self._holding
            for resource, level in quota.limiter.levels().items()
            if quota.owned
        }
        checkpoint = Checkpoint(
            owner=self._owner,
            at=time.time(),
            levels=levels,
            partitions=self._layout.partitions,
            carrying={
                name: quota.carrying
                for quota in self._holding
                for name in quota.limiter.carried_calls()
            },
            since=self._layout_changed_at,
        )
        return encode_checkpoint(checkpoint)

    async def restore_from_checkpoints(
        self, owned: Collection[int], texts: Mapping[int, str], layout: QuotaLayout
    ) -> None:
        """Own these partitions from now on, each with the checkpoint of its last owner.

        `texts` are the checkpoints of all partitions of the group: they show a change of the
        layout.
        """
        now = time.time()
        checkpoints = {partition: decode_checkpoint(text) for partition, text in texts.items()}
        since = {
            partition: saved.at if (saved := checkpoints.get(partition)) else now - LOOK_BACK_S
            for partition in owned
        }
        spent = await retry_while_unavailable(
            lambda: self._calls.spent_since(_to_datetimes(since)), operation="restore quota"
        )
        now, self._layout, self._layout_changed_at = time.time(), layout, 0.0
        known = [checkpoint for checkpoint in checkpoints.values() if checkpoint is not None]
        self._holding = [self._divide(limiter, owned, layout) for limiter in self._limiters]
        restore = _QuotaRestore(checkpoints, known, spent, now)
        for quota in self._holding:
            self._restore_limiter(quota, restore)

    def _divide(
        self, limiter: ProviderLimiter, owned: Collection[int], layout: QuotaLayout
    ) -> "_LimiterQuota":
        carrying = layout.carrying_partitions(limiter.carried_calls())
        return _LimiterQuota(
            limiter=limiter,
            carrying=len(carrying),
            owned=tuple(sorted(set(owned).intersection(carrying))),
            part=limiter.spendable_part(len(carrying)) / max(len(carrying), 1),
        )

    def _restore_limiter(self, quota: "_LimiterQuota", restore: "_QuotaRestore") -> None:
        limiter = quota.limiter
        levels = {
            resource: self._restore_level(
                f"{limiter.provider}/{resource}", rate * quota.part, quota, restore
            )
            for resource, rate in limiter.rates().items()
        }
        share = len(quota.owned) * quota.part
        limiter.assign_share(quota.owned, share, levels, carrying=quota.carrying)
        if quota.owned:
            log.info(
                "quota restored",
                provider=limiter.provider,
                partitions=len(quota.owned),
                carrying=quota.carrying,
                levels={resource: round(level, 2) for resource, level in levels.items()},
            )

    def _restore_level(
        self, name: str, rate: float, quota: "_LimiterQuota", restore: "_QuotaRestore"
    ) -> float:
        """Sum one limit's level over its partitions. `rate` is a partition's, in units a second."""
        layout = {"partitions": self._layout.partitions, "carrying": quota.carrying}
        changed_at = find_layout_change(restore.known, name, now=restore.now, **layout)
        self._layout_changed_at = max(self._layout_changed_at, changed_at)
        level = 0.0
        for partition in quota.owned:
            saved = restore.checkpoints.get(partition)
            same = saved is not None and saved.has_layout(name, **layout)
            restored = restore_level(
                saved if same else None,
                name,
                spent_since=restore.spent.get((partition, name), 0.0),
                rate=rate,
                burst_s=self._burst_s,
                reader=self._owner,
                now=restore.now,
                skew_s=self._skew_s,
            )
            if not same:
                limit = level_after_layout_change(
                    changed_at, rate=rate, now=restore.now, skew_s=self._skew_s
                )
                restored = min(restored, limit)
            level += restored
        return level


@dataclass(frozen=True, slots=True, kw_only=True)
class _LimiterQuota:
    """One limiter's part in the quota layout."""

    limiter: ProviderLimiter
    carrying: int
    """How many partitions carry its quota."""
    owned: tuple[int, ...]
    """Those of them that this worker owns."""
    part: float
    """The part of the account's limits that one of them carries."""


class _QuotaRestore(NamedTuple):
    checkpoints: Mapping[int, Checkpoint | None]
    known: Sequence[Checkpoint]
    """The readable ones."""
    spent: Mapping[tuple[int, str], float]
    now: float


def _to_datetimes(since: Mapping[int, float]) -> dict[int, datetime]:
    return {partition: datetime.fromtimestamp(at, UTC) for partition, at in since.items()}
