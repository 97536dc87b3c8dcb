"""Alert rules: one raise and one clear for each crossing, no change within the band."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.metrics.alerts.counter_growth import CounterGrowth
from services.metrics.alerts.definitions import ALERTS
from services.metrics.alerts.rules import (
    UNKNOWN_LIMIT,
    Alert,
    AlertChange,
    AlertInputs,
    AlertLevel,
    AlertState,
    BadSide,
    Severity,
    evaluate_alert,
    severity_rank,
    summary_text,
)

START = datetime(2026, 11, 25, 12, tzinfo=UTC)
QUEUE = next(alert for alert in ALERTS if alert.name == "queue-long")
QUIET = AlertInputs(
    pending=0,
    due=0,
    oldest_wait_s=0.0,
    failed_percent=0.0,
    done_per_minute=0.0,
    open_circuits=0,
    workers=1,
    drifted=0,
    in_doubt=0,
    dead_letters=0,
    miscounted=0,
    scheduler_silent_s=0.5,
)

any_alert = st.sampled_from(ALERTS)


def evaluate_values(
    alert: Alert, values: Sequence[float | None], state: AlertState | None = None
) -> tuple[AlertState, list[AlertChange]]:
    """Evaluate one value a second. Returns the final state and all changes."""
    state, changes = state or AlertState(), []
    for second, value in enumerate(values):
        state, change = evaluate_alert(alert, state, value, START + timedelta(seconds=second))
        if change is not None:
            changes.append(change)
    return state, changes


def held_value(alert: Alert, value: float) -> list[float | None]:
    """Return a value that lasts as long as the alert can require."""
    return [value] * (int(max(alert.raise_after_s, alert.clear_after_s)) + 1)


def bad_value(alert: Alert, level: AlertLevel) -> float:
    return level.raise_at + (1 if alert.bad_side is BadSide.ABOVE else -1)


def values_in_band(alert: Alert, level: AlertLevel) -> st.SearchStrategy[float]:
    """Return values that change nothing: beyond `clear_at`, and not beyond `raise_at`."""
    low, high = sorted((level.raise_at, level.clear_at))
    return st.floats(
        low,
        high,
        exclude_min=alert.bad_side is BadSide.ABOVE,
        exclude_max=alert.bad_side is BadSide.BELOW,
    )


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_declaration_is_consistent(alert: Alert) -> None:
    sign = 1 if alert.bad_side is BadSide.ABOVE else -1
    assert [level.severity for level in alert.levels] == sorted(
        {one.severity for one in alert.levels}, key=severity_rank
    )
    thresholds = [sign * level.raise_at for level in alert.levels]
    assert thresholds == sorted(set(thresholds))
    assert all(sign * level.clear_at <= sign * level.raise_at for level in alert.levels)
    assert "{value}" in alert.summary


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_quiet_system_raises_no_alert(alert: Alert) -> None:
    value = alert.value(QUIET)
    assert value is not None
    assert evaluate_values(alert, held_value(alert, value) * 2)[1] == []


def test_queue_thresholds_of_the_contract() -> None:
    for pending, severity in (
        (1_000, None),
        (1_001, "warning"),
        (5_000, "warning"),
        (5_001, "critical"),
    ):
        state, changes = evaluate_values(QUEUE, held_value(QUEUE, pending))
        assert (state.severity, len(changes)) == (severity, int(severity is not None))


@settings(deadline=None)
@given(any_alert, st.data())
def test_each_crossing_raises_and_clears_once(alert: Alert, data: st.DataObject) -> None:
    level, crossings = data.draw(st.sampled_from(alert.levels)), data.draw(st.integers(1, 4))
    good = alert.value(QUIET)
    assert good is not None
    _, changes = evaluate_values(
        alert, (held_value(alert, bad_value(alert, level)) + held_value(alert, good)) * crossings
    )
    assert [(change.before, change.after) for change in changes] == [
        (None, level.severity),
        (level.severity, None),
    ] * crossings


@settings(deadline=None)
@given(st.data())
def test_values_within_the_band_change_nothing(data: st.DataObject) -> None:
    banded = [
        (alert, one) for alert in ALERTS for one in alert.levels if one.raise_at != one.clear_at
    ]
    alert, level = data.draw(st.sampled_from(banded))
    values: list[float | None] = data.draw(
        st.lists(values_in_band(alert, level), min_size=1, max_size=60)
    )
    raised, _ = evaluate_values(alert, held_value(alert, bad_value(alert, level)))
    assert evaluate_values(alert, values, raised)[1] == []
    below = alert.levels[: alert.levels.index(level)]
    assert all(
        change.after in {one.severity for one in below}
        for change in evaluate_values(alert, values)[1]
    )


@settings(deadline=None)
@given(
    any_alert,
    st.lists(st.tuples(st.floats(0, 10_000), st.floats(0, 5_000)), min_size=1, max_size=400),
)
def test_worse_value_never_gives_milder_severity(
    alert: Alert, pairs: list[tuple[float, float]]
) -> None:
    milder: list[float | None] = [value for value, _ in pairs]
    sign = 1 if alert.bad_side is BadSide.ABOVE else -1
    worse: list[float | None] = [value + sign * more for value, more in pairs]
    one, other = AlertState(), AlertState()
    for second, (mild, bad) in enumerate(zip(milder, worse, strict=True)):
        now = START + timedelta(seconds=second)
        one, _ = evaluate_alert(alert, one, mild, now)
        other, _ = evaluate_alert(alert, other, bad, now)
        assert severity_rank(other.severity) >= severity_rank(one.severity)


def test_short_peak_raises_no_alert() -> None:
    held = int(QUEUE.raise_after_s)
    assert evaluate_values(QUEUE, [2_000.0] * held + [0.0] + [2_000.0] * held)[1] == []
    (raised,) = evaluate_values(QUEUE, [2_000.0] * (held + 1))[1]
    assert raised.at - START == timedelta(seconds=held)


def test_unknown_value_neither_raises_nor_clears() -> None:
    held = int(QUEUE.raise_after_s)
    assert evaluate_values(QUEUE, [2_000.0] * held + [None] + [2_000.0] * held)[1] == []
    state, _ = evaluate_values(QUEUE, held_value(QUEUE, 2_000))
    assert evaluate_values(QUEUE, [None] * 100, state) == (state, [])
    assert state.value == 2_000


@settings(deadline=None)
@given(any_alert)
def test_alert_unknown_for_long_is_withdrawn_and_raised_again(alert: Alert) -> None:
    bad = held_value(alert, bad_value(alert, alert.levels[0]))
    state, _ = evaluate_values(alert, bad)
    later = START + timedelta(seconds=len(bad) - 1) + UNKNOWN_LIMIT
    assert evaluate_alert(alert, state, None, later - timedelta(seconds=1)) == (state, None)
    state, change = evaluate_alert(alert, state, None, later)
    assert change is not None
    assert (change.before, change.after, change.unknown) == (alert.levels[0].severity, None, True)
    assert evaluate_alert(alert, state, None, later + UNKNOWN_LIMIT)[1] is None, (
        "the withdrawal is reported once"
    )
    assert [again.after for again in evaluate_values(alert, bad, state)[1]] == [
        alert.levels[0].severity
    ]


def test_severity_worsens_and_eases_step_by_step() -> None:
    values = [
        value for level in (2_000.0, 6_000.0, 2_000.0, 0.0) for value in held_value(QUEUE, level)
    ]
    state, changes = evaluate_values(QUEUE, values)
    steps = [(change.before, change.after, change.is_worse) for change in changes]
    warning, critical = Severity.WARNING, Severity.CRITICAL
    assert steps == [
        (None, warning, True),
        (warning, critical, True),
        (critical, warning, False),
        (warning, None, False),
    ]
    assert (state.severity, state.since) == (None, None)


def test_throughput_is_never_low_without_due_jobs() -> None:
    low = next(alert for alert in ALERTS if alert.name == "throughput-low")
    assert low.value(QUIET) == inf
    assert low.value(replace(QUIET, due=3)) == 0.0
    assert low.value(replace(QUIET, due=None)) is None


@given(st.lists(st.integers(0, 50), max_size=50))
def test_growth_counts_within_window_and_across_restarts(steps: list[int]) -> None:
    growth, value = CounterGrowth(minutes=15), 100
    assert growth.record(None, START) is None
    assert growth.record(value, START) == 0
    for second, step in enumerate(steps):
        value += step
        growth.record(value, START + timedelta(seconds=second))
    assert growth.record(None, START + timedelta(seconds=50)) == sum(steps)
    assert growth.record(3, START + timedelta(seconds=60)) == sum(steps) + (3 if value > 3 else 0)
    assert growth.record(3, START + timedelta(minutes=20)) == 0


@pytest.mark.parametrize(("value", "words"), [(16.4, "16 s"), (2_460, "41 min"), (9_000, "2.5 h")])
def test_durations_have_readable_units(value: float, words: str) -> None:
    (alert,) = [alert for alert in ALERTS if alert.name == "oldest-wait"]
    assert summary_text(alert, value) == f"a job has waited for {words}"
