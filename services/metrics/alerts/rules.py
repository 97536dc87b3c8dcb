"""How alerts are raised and cleared; `definitions` declares the alerts.

Every level of an alert is raised when the value has been beyond `raise_at` for `raise_after_s`
without a break, and cleared when it has been back at `clear_at` for `clear_after_s`. Between the
two thresholds nothing changes (hysteresis), so a value that fluctuates around a threshold raises
the alert once. The alert's severity is that of its worst raised level.

While a value is unknown, its alert stays as it is, because a missing value is no good news. After
`UNKNOWN_LIMIT` the alert is withdrawn and the withdrawal is reported: no value could ever clear it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum


class Severity(StrEnum):
    """Mildest first."""

    WARNING = "warning"
    CRITICAL = "critical"


_RANK = {severity: rank for rank, severity in enumerate(Severity, start=1)}


UNKNOWN_LIMIT = timedelta(minutes=15)

SECONDS = "seconds"
"""The unit of values that are shown as durations with a readable unit: 41 min instead of 2,460."""


class BadSide(StrEnum):
    """The side of its thresholds on which a value is bad."""

    ABOVE = ">"
    BELOW = "<"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertInputs:
    """All values that alerts are evaluated on. `None` is unknown and raises nothing."""

    pending: int | None
    """Waiting jobs, including those that are not due yet."""
    due: int | None
    """Waiting jobs that could be dispatched now."""
    oldest_wait_s: float | None
    """Seconds since the longest waiting job became due."""
    failed_percent: float | None
    """Failed ÷ ended jobs over the last 15 minutes; 0 when too few have ended."""
    done_per_minute: float | None
    """Over the last five minutes."""
    open_circuits: int
    """Provider limits whose circuit breaker is open."""
    open_circuit_reasons: tuple[str, ...] = ()
    """Why they are open, in the providers' words."""
    workers: int
    drifted: int | None
    """Slots repaired in the last 15 minutes."""
    in_doubt: int | None
    """In-doubt calls of the last 15 minutes: they may have been billed."""
    dead_letters: int | None
    """Dead letters that are neither replayed nor discarded."""
    miscounted: int | None
    """Jobs whose count differs from PostgreSQL."""
    scheduler_silent_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertLevel:
    severity: Severity
    raise_at: float
    """The level is raised beyond this value, in the alert's unit."""
    clear_at: float
    """The level is cleared at this value or on its good side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    name: str
    unit: str
    """The unit of value and thresholds: jobs, seconds, percent, …"""
    summary: str
    """One line for people; `{value}` stands for the value. Durations include their unit."""
    advice: str
    """What is at stake and where to look first."""
    value: Callable[[AlertInputs], float | None]
    causes: Callable[[AlertInputs], tuple[str, ...]] = lambda _: ()
    """What is known about the cause, for people."""
    promql: str
    """The same value, computed from the exposed metrics."""
    bad_side: BadSide = BadSide.ABOVE
    levels: tuple[AlertLevel, ...]
    """Mildest first."""
    raise_after_s: float
    """Seconds that the value must be beyond `raise_at` without a break."""
    clear_after_s: float
    """Seconds that the value must be back at `clear_at` without a break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelState:
    """The state of one level.

    `opposed_since`: the start of the unbroken time in which the value opposes this state.
    """

    is_raised: bool = False
    opposed_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertState:
    """The state of one alert."""

    levels: Mapping[Severity, LevelState] = field(default_factory=dict)
    severity: Severity | None = None
    """`None`: not active."""
    since: datetime | None = None
    """The start of this severity."""
    value: float | None = None
    """The last known value."""
    known_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertChange:
    """An alert's change of severity; `None` is not active."""

    alert: Alert
    before: Severity | None
    after: Severity | None
    value: float
    at: datetime
    causes: tuple[str, ...] = ()
    unknown: bool = False
    """The alert is withdrawn because its value is unknown; `value` is the last known one."""

    @property
    def is_worse(self) -> bool:
        return severity_rank(self.after) > severity_rank(self.before)


def severity_rank(severity: Severity | None) -> int:
    """Return 0 for not active, and higher numbers for worse severities."""
    return _RANK[severity] if severity is not None else 0


def evaluate_alert(
    alert: Alert, state: AlertState, value: float | None, now: datetime
) -> tuple[AlertState, AlertChange | None]:
    """Return the alert's state after this value, and the change of its severity, if any.

    Call it about once a second.
    """
    if value is None and state.known_at is not None and now - state.known_at >= UNKNOWN_LIMIT:
        return AlertState(), _withdrawal(alert, state, now)
    levels = {
        level.severity: _advance_level(
            alert, level, state.levels.get(level.severity, LevelState()), value, now
        )
        for level in alert.levels
    }
    severity = max(
        (severity for severity, level in levels.items() if level.is_raised),
        key=severity_rank,
        default=None,
    )
    known, known_at = (state.value, state.known_at) if value is None else (value, now)
    if severity is state.severity:
        return replace(state, levels=levels, value=known, known_at=known_at), None
    assert known is not None  # an unknown value changes no level
    change = AlertChange(alert=alert, before=state.severity, after=severity, value=known, at=now)
    since = now if severity else None
    return AlertState(
        levels=levels, severity=severity, since=since, value=known, known_at=known_at
    ), change


def _withdrawal(alert: Alert, state: AlertState, now: datetime) -> AlertChange | None:
    if state.severity is None or state.value is None:
        return None
    return AlertChange(
        alert=alert, before=state.severity, after=None, value=state.value, at=now, unknown=True
    )


def summary_text(alert: Alert, value: float) -> str:
    """Return the alert's summary with this value."""
    return alert.summary.format(value=_duration(value) if alert.unit == SECONDS else _amount(value))


def _amount(value: float) -> str:
    return f"{round(value, 1):,}".removesuffix(".0")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{_amount(seconds / 3_600)} h"


def find_level(alert: Alert, severity: Severity) -> AlertLevel:
    return next(level for level in alert.levels if level.severity is severity)


def _advance_level(
    alert: Alert, level: AlertLevel, state: LevelState, value: float | None, now: datetime
) -> LevelState:
    if value is None:
        return replace(state, opposed_since=None)
    opposes = _is_back(alert, level, value) if state.is_raised else _is_beyond(alert, level, value)
    if not opposes:
        return replace(state, opposed_since=None)
    since = state.opposed_since or now
    required = timedelta(seconds=alert.clear_after_s if state.is_raised else alert.raise_after_s)
    if now - since >= required:
        return LevelState(is_raised=not state.is_raised)
    return replace(state, opposed_since=since)


def _is_beyond(alert: Alert, level: AlertLevel, value: float) -> bool:
    return value > level.raise_at if alert.bad_side is BadSide.ABOVE else value < level.raise_at


def _is_back(alert: Alert, level: AlertLevel, value: float) -> bool:
    return value <= level.clear_at if alert.bad_side is BadSide.ABOVE else value >= level.clear_at
