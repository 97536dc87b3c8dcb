"""Encodes the quota checkpoint of a partition, and restores the level of its token bucket from it.

A partition's bucket continues through any change of owner. The checkpoint holds its level at a
time, the calls begun after that time are recorded in PostgreSQL, and the time since then refills
it. So all owners together stay within the limit of one bucket. Nothing is lost except the time by
which two clocks may differ.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

LOOK_BACK_S = 60.0
"""Without a checkpoint, the calls of the last minute count against the refill of a minute."""
_UNSAVED_S = 15.0
"""A silent owner may begin calls for so long after its last checkpoint."""
_FORMER_PARTITIONS = 24
"""The partitions that carried every limit when checkpoints did not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The metadata of a partition's committed offset.

    `at` is the time by the clock of `owner`, in seconds since the epoch.
    """

    owner: str
    at: float
    levels: Mapping[str, float]
    """The level of the partition's bucket for each "provider/resource"; negative is debt."""
    partitions: int = _FORMER_PARTITIONS
    carrying: Mapping[str, int] = field(default_factory=dict)
    """How many of the `partitions` carry each "provider/resource"; missing: all."""
    since: float = 0.0
    """When the last quota layout that differs from this one was still in use."""

    def has_layout(self, name: str, partitions: int, carrying: int) -> bool:
        """Return whether a limit was divided over these partitions."""
        return (self.partitions, self.carrying.get(name, self.partitions)) == (partitions, carrying)


_CHECKPOINT = TypeAdapter(Checkpoint)


def encode_checkpoint(checkpoint: Checkpoint) -> str:
    """Encode a checkpoint in a few hundred characters; Kafka accepts 4096."""
    rounded = Checkpoint(
        owner=checkpoint.owner,
        at=round(checkpoint.at, 6),
        levels={name: round(level, 3) for name, level in checkpoint.levels.items()},
        partitions=checkpoint.partitions,
        carrying=checkpoint.carrying,
        since=round(checkpoint.since, 6),
    )
    return _CHECKPOINT.dump_json(rounded).decode()


def decode_checkpoint(text: str) -> Checkpoint | None:
    """Decode a checkpoint.

    Returns `None` if it is missing or unknown: the bucket counts as empty.
    """
    try:
        return _CHECKPOINT.validate_json(text)
    except ValidationError:
        return None


def restore_level(
    checkpoint: Checkpoint | None,
    name: str,
    *,
    spent_since: float,
    rate: float,
    burst_s: float,
    reader: str,
    now: float,
    skew_s: float,
) -> float:
    """Compute the level of a partition's bucket for its new owner `reader`.

    `rate` is the partition's, in units a second. `spent_since` is the cost of the recorded calls
    begun after the checkpoint. The clocks of two owners may differ by `skew_s`.
    """
    if checkpoint is None:
        return min(0.0, rate * LOOK_BACK_S - spent_since)
    elapsed = now - checkpoint.at - (skew_s if checkpoint.owner != reader else 0.0)
    level = checkpoint.levels.get(name, 0.0) - spent_since + rate * max(elapsed, 0.0)
    return min(level, rate * burst_s)


def find_layout_change(
    checkpoints: Iterable[Checkpoint], name: str, *, partitions: int, carrying: int, now: float
) -> float:
    """Return until when another quota layout was in use, by all checkpoints of the group.

    Its owners may have spent quota that no checkpoint of the present layout includes.
    """
    return max(
        (
            saved.since
            if saved.has_layout(name, partitions, carrying)
            else min(saved.at + _UNSAVED_S, now)
            for saved in checkpoints
        ),
        default=0.0,
    )


def level_after_layout_change(
    changed_at: float, *, rate: float, now: float, skew_s: float
) -> float:
    """Return the level that lets a partition begin a minute after the change of the layout.

    The provider's own bucket is full by then, whatever was spent before.
    """
    return -rate * max(changed_at + LOOK_BACK_S + skew_s - now, 0.0)
