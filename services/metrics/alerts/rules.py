"""How alerts are raised and cleared; which there are is declared in `alerts`.

Every level of an alert is a trigger of its own: it goes on when the value has been beyond `raise_at` for so long
without a break, and off when it has been back at `clear_at` for so long. Between the two nothing changes, so a value
that trembles around a threshold raises once. The alert's severity is that of its worst level that is on.

While a value is unknown its alert stands as it stood: not to be able to look is no good news. After `UNKNOWN_LIMIT` it is
taken back, and that is said: nobody knows any more whether it is true, and one that nothing can clear is no alert.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum


class Severity(StrEnum):
    """Mildest first."""

    WARNING = "warning"
    CRITICAL = "critical"


_RANK = {severity: severity_rank for severity_rank, severity in enumerate(Severity, start=1)}


UNKNOWN_LIMIT = timedelta(minutes=15)

SECONDS = "seconds"
"""The unit of values that are said as durations: nobody counts 2,460 seconds at night."""


class BadSide(StrEnum):
    """On which side of its thresholds a value is bad."""

    ABOVE = ">"
    BELOW = "<"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertInputs:
    """All that is judged. None is unknown: nothing is raised by it."""

    pending: int | None
    """Jobs that wait, those that are not due yet included."""
    due: int | None
    """Jobs that wait and could go."""
    oldest_wait_s: float | None
    """Seconds since the job that has waited longest could have gone."""
    failed_percent: float | None
    """Failed ÷ ended over the last quarter of an hour; 0 when too few have ended to say."""
    done_per_minute: float | None
    """Over the last five minutes."""
    open_circuits: int
    """Limits of providers that are not asked for now."""
    workers: int
    drifted: int | None
    """Slots that were repaired in the last quarter of an hour."""
    in_doubt: int | None
    """Calls of the last quarter of an hour of which nobody can say whether they were billed."""
    dead_letters: int | None
    """Records put aside that nobody has replayed or discarded."""
    miscounted: int | None
    """Jobs that metrics counts other than PostgreSQL has them."""
    scheduler_silent_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertLevel:
    severity: Severity
    raise_at: float
    """Beyond this, in the alert's unit, it is raised."""
    clear_at: float
    """At this, or on its good side, it is cleared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    name: str
    unit: str
    """jobs, seconds, percent, …: what value and thresholds are in."""
    summary: str
    """One line for people; `{value}` stands for the value, of seconds with their unit."""
    advice: str
    """What is at stake, and where to look first."""
    value: Callable[[AlertInputs], float | None]
    promql: str
    """The same value from the metrics that are exposed."""
    bad_side: BadSide = BadSide.ABOVE
    levels: tuple[AlertLevel, ...]
    """Mildest first."""
    raise_after_s: float
    """Seconds that the value must be beyond `raise_at` without a break."""
    clear_after_s: float
    """Seconds that it must be back without a break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelState:
    """One level. `opposed_since`: since when, without a break, the value has spoken for the other state."""

    is_raised: bool = False
    opposed_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertState:
    """One alert as it stands."""

    levels: Mapping[Severity, LevelState] = field(default_factory=dict)
    severity: Severity | None = None
    """None: not in force."""
    since: datetime | None = None
    """When it came to have this severity."""
    value: float | None = None
    """The last that was known."""
    known_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertChange:
    """An alert came to have another severity: None is not in force."""

    alert: Alert
    before: Severity | None
    after: Severity | None
    value: float
    at: datetime
    unknown: bool = False
    """It is taken back, because nobody knows its value any more; `value` is the last that was known."""

    @property
    def is_worse(self) -> bool:
        return severity_rank(self.after) > severity_rank(self.before)


def severity_rank(severity: Severity | None) -> int:
    """0 is not in force; the higher, the worse."""
    return _RANK[severity] if severity is not None else 0


def evaluate_alert(
    alert: Alert, state: AlertState, value: float | None, now: datetime
) -> tuple[AlertState, AlertChange | None]:
    """The alert after this value, and the change if its severity is another now. Call it about once a second."""
    if value is None and state.known_at is not None and now - state.known_at >= UNKNOWN_LIMIT:
        return AlertState(), _taken_back(alert, state, now)
    levels = {
        level.severity: _step(
            alert, level, state.levels.get(level.severity, LevelState()), value, now
        )
        for level in alert.levels
    }
    severity = max(
        (level for level, trigger in levels.items() if trigger.is_raised), key=severity_rank, default=None
    )
    known, known_at = (state.value, state.known_at) if value is None else (value, now)
    if severity is state.severity:
        return replace(state, levels=levels, value=known, known_at=known_at), None
    assert known is not None  # an unknown value moves no trigger
    change = AlertChange(alert=alert, before=state.severity, after=severity, value=known, at=now)
    since = now if severity else None
    return AlertState(
        levels=levels, severity=severity, since=since, value=known, known_at=known_at
    ), change


def _taken_back(alert: Alert, state: AlertState, now: datetime) -> AlertChange | None:
    if state.severity is None or state.value is None:
        return None
    return AlertChange(
        alert=alert, before=state.severity, after=None, value=state.value, at=now, unknown=True
    )


def summary_text(alert: Alert, value: float) -> str:
    """The alert's line for people, with this value."""
    return alert.summary.format(value=_duration(value) if alert.unit == SECONDS else _amount(value))


def _amount(value: float) -> str:
    return f"{round(value, 1):,}".removesuffix(".0")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{_amount(seconds / 3_600)} h"


def find_level(alert: Alert, severity: Severity) -> AlertLevel:
    return next(level for level in alert.levels if level.severity is severity)


def _step(
    alert: Alert, level: AlertLevel, trigger: LevelState, value: float | None, now: datetime
) -> LevelState:
    if value is None:
        return replace(trigger, opposed_since=None)
    against = _is_back(alert, level, value) if trigger.is_raised else _is_beyond(alert, level, value)
    if not against:
        return replace(trigger, opposed_since=None)
    since = trigger.opposed_since or now
    held = timedelta(seconds=alert.clear_after_s if trigger.is_raised else alert.raise_after_s)
    return (
        LevelState(is_raised=not trigger.is_raised) if now - since >= held else replace(trigger, opposed_since=since)
    )


def _is_beyond(alert: Alert, level: AlertLevel, value: float) -> bool:
    return value > level.raise_at if alert.bad_side is BadSide.ABOVE else value < level.raise_at


def _is_back(alert: Alert, level: AlertLevel, value: float) -> bool:
    return value <= level.clear_at if alert.bad_side is BadSide.ABOVE else value >= level.clear_at
