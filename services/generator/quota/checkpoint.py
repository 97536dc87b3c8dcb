"""The budget travels with its partition: what an owner writes down, and what the next one makes of it.

A partition's bucket goes on through any change of owner: the note says its level at a time, calls begun after that
time are on record, and what has passed since then refills it. So whatever all owners spend of a partition stays
within one bucket's bound, and nothing is lost but the time by which two clocks may differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

LOOK_BACK_S = 60.0
"""Where there is no note, calls of the last minute are counted, against a minute's refill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What goes beside a partition's offset. `at` is `owner`'s clock, in seconds since the epoch."""

    owner: str
    at: float
    levels: Mapping[str, float]
    """By "provider/resource": what of the partition's bucket is left; negative is debt."""


_NOTE = TypeAdapter(Checkpoint)


def encode_checkpoint(note: Checkpoint) -> str:
    """At most a few hundred characters: Kafka takes 4096."""
    rounded = {name: round(level, 3) for name, level in note.levels.items()}
    return _NOTE.dump_json(Checkpoint(owner=note.owner, at=round(note.at, 6), levels=rounded)).decode()


def decode_checkpoint(text: str) -> Checkpoint | None:
    """None where no owner has left a note that we understand: the bucket counts as empty then."""
    try:
        return _NOTE.validate_json(text)
    except ValidationError:
        return None


def restore_level(
    note: Checkpoint | None,
    name: str,
    *,
    spent_since: float,
    rate: float,
    burst_s: float,
    reader: str,
    now: float,
    skew_s: float,
) -> float:
    """A partition's level when `reader` takes it over. `rate` is the partition's, in units a second; `spent_since` is
    on record for calls begun after the note; two owners' clocks may differ by `skew_s`.
    """
    if note is None:
        return min(0.0, rate * LOOK_BACK_S - spent_since)
    elapsed = now - note.at - (skew_s if note.owner != reader else 0.0)
    level = note.levels.get(name, 0.0) - spent_since + rate * max(elapsed, 0.0)
    return min(level, rate * burst_s)
