"""The state of the world over time, in at most a few hundred samples."""

from collections.abc import Mapping
from dataclasses import dataclass

_MOST_SAMPLES = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    at: float
    waiting: int
    running: int
    offered: int
    """The slots of the workers that own a partition with quota."""
    done: int
    """Posts done since the start."""
    charged: Mapping[str, float]
    """Units of each limit since the start."""


class Timeline:
    """Keeps every sample at first. When there are too many, it keeps every second one."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._keep_every = 1
        self._number = 0

    def add(self, sample: Sample) -> None:
        if self._number % self._keep_every == 0:
            self.samples.append(sample)
        self._number += 1
        if len(self.samples) > _MOST_SAMPLES:
            self.samples = self.samples[::2]
            self._keep_every *= 2
