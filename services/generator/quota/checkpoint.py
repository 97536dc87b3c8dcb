"""Encodes the quota checkpoint of a partition, and restores the level of its token bucket from it.

A partition's bucket continues through any change of owner. The checkpoint holds its level at a
time, the calls begun after that time are recorded in PostgreSQL, and the time since then refills
it. So all owners together stay within the limit of one bucket. Nothing is lost except the time by
which two clocks may differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

LOOK_BACK_S = 60.0
"""Without a checkpoint, the calls of the last minute count against the refill of a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The metadata of a partition's committed offset.

    `at` is the time by the clock of `owner`, in seconds since the epoch.
    """

    owner: str
    at: float
    levels: Mapping[str, float]
    """The level of the partition's bucket for each "provider/resource"; negative is debt."""


_CHECKPOINT = TypeAdapter(Checkpoint)


def encode_checkpoint(checkpoint: Checkpoint) -> str:
    """Encode a checkpoint in a few hundred characters; Kafka accepts 4096."""
    rounded = Checkpoint(
        owner=checkpoint.owner,
        at=round(checkpoint.at, 6),
        levels={name: round(level, 3) for name, level in checkpoint.levels.items()},
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
