"""What is monitored beside the events: the lag of each stage, open dead letters, drift."""

from dataclasses import dataclass, field

from services.metrics.reconcile.rules import Drift


@dataclass(slots=True, kw_only=True)
class MonitoredValues:
    """What was seen last. None: not looked at yet."""

    lag: dict[str, int] = field(default_factory=dict)
    """Records that a stage has not committed yet."""
    dead_letters: int | None = None
    """Those that nobody has replayed or discarded."""
    drift: Drift | None = None
    """One process of all compares; the others are told."""
