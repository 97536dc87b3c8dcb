"""The budget's way from owner to owner: written beside the partitions' offsets, taken up by whoever gets them next."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from services.generator.jobs.repository import GenerationRepository
from services.generator.quota import checkpoint as rules
from services.generator.quota.checkpoint import Checkpoint
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.observability.log import get_logger
from shared.runtime.postgres import retry_while_unavailable

log = get_logger(__name__)


class PartitionQuota:
    """All limiters of a worker. A worker owns `len(partitions) / total` of each."""

    def __init__(
        self,
        *,
        owner: str,
        limiters: Sequence[ProviderLimiter],
        store: GenerationRepository,
        total: int,
        burst_s: float,
        skew_s: float,
    ) -> None:
        self._owner = owner
        self._limiters = limiters
        self._store = store
        self._total = total
        self._burst_s = burst_s
        self._skew_s = skew_s
        self._owned = 0

    def pause(self) -> None:
        """Spend nothing until the next `restore_from_checkpoints`: the partitions are about to get new owners."""
        for limiter in self._limiters:
            limiter.pause()

    def lease_until(self, until: float) -> None:
        """The partitions are ours until then (the loop's clock) unless we hear from Kafka again."""
        for limiter in self._limiters:
            limiter.lease_until(until)

    def build_checkpoint(self) -> str:
        """What to write beside each owned partition's offset: an equal part of what is left."""
        levels = {
            f"{limiter.provider}/{resource}": level / max(self._owned, 1)
            for limiter in self._limiters
            for resource, level in limiter.levels().items()
        }
        return rules.encode_checkpoint(Checkpoint(owner=self._owner, at=time.time(), levels=levels))

    async def restore_from_checkpoints(self, notes: Mapping[int, str]) -> None:
        """Own these partitions, each with its last owner's note, from now on."""
        read = {partition: rules.decode_checkpoint(text) for partition, text in notes.items()}
        since = {
            partition: note.at if note else time.time() - rules.LOOK_BACK_S
            for partition, note in read.items()
        }
        spent = await retry_while_unavailable(
            lambda: self._store.spent_since(_times(since)), what="budget"
        )
        now, self._owned = time.time(), len(notes)
        for limiter in self._limiters:
            levels = {
                resource: self._level(f"{limiter.provider}/{resource}", rate, read, spent, now)
                for resource, rate in limiter.rates().items()
            }
            limiter.assign_share(tuple(notes), len(notes) / self._total, levels)
            if notes:
                rounded = {resource: round(level, 2) for resource, level in levels.items()}
                log.info(
                    "budget taken over",
                    provider=limiter.provider,
                    partitions=len(notes),
                    levels=rounded,
                )

    def _level(
        self,
        name: str,
        rate: float,
        notes: Mapping[int, Checkpoint | None],
        spent: Mapping[tuple[int, str], float],
        now: float,
    ) -> float:
        """What is left of one limit in all these partitions. `rate` is the account's, in units a second."""
        return sum(
            rules.restore_level(
                note,
                name,
                spent_since=spent.get((partition, name), 0.0),
                rate=rate / self._total,
                burst_s=self._burst_s,
                reader=self._owner,
                now=now,
                skew_s=self._skew_s,
            )
            for partition, note in notes.items()
        )


def _times(since: Mapping[int, float]) -> dict[int, datetime]:
    return {partition: datetime.fromtimestamp(at, UTC) for partition, at in since.items()}
