"""Values beside the counts: lag, open dead letters, drift, completeness of an answer."""

from dataclasses import dataclass, field

from services.metrics.reconcile.rules import Drift


@dataclass(slots=True, kw_only=True)
class MonitoredValues:
    """The latest measured values. `None`: not measured yet."""

    lag: dict[str, int] = field(default_factory=dict)
    """Records that a stage has not committed yet."""
    dead_letters: int | None = None
    """Dead letters that are neither replayed nor discarded."""
    drift: Drift | None = None
    """Found by the one process that compares; the others receive it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completeness:
    """How complete an answer is, and the monitored values shown with it."""

    monitored: MonitoredValues
    malformed: int = 0
    processes: int = 1
    """Processes whose numbers are in the answer."""
    missing: tuple[str, ...] = ()
    """Addresses of the processes that do not answer."""
    uncounted: tuple[int, ...] = ()
    """Partitions of the results without a counting process that answers."""

    @property
    def complete(self) -> bool:
        """Whether the answer covers all partitions.

        Sums fall while a part is missing, and rise when it returns.
        """
        return not self.missing and not self.uncounted
