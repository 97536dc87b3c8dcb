"""Judges the numbers once a second, and says what was raised and cleared: to the log, the API and the webhook."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from services.metrics.alerts.definitions import (
    ALERTS,
    MIN_ENDED_JOBS,
    THROUGHPUT_MINUTES,
    WINDOW_MINUTES,
)
from services.metrics.alerts.counter_growth import CounterGrowth
from services.metrics.alerts.rules import (
    Alert,
    AlertChange,
    AlertInputs,
    Severity,
    AlertState,
    evaluate_alert,
    find_level,
    severity_rank,
    summary_text,
)
from services.metrics.alerts.webhook import AlertWebhook
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.counting.rules import aggregate
from services.metrics.counting.rules.aggregate import Aggregate
from shared.observability.log import get_logger

log = get_logger(__name__)

_EVERY_S = 1.0


class AlertEvaluator:
    """`webhook` hears of every change, if there is one and `tells` says that it is this process's part to tell."""

    def __init__(
        self,
        *,
        total: Callable[[], Aggregate],
        reports: LatestReports,
        monitored: Callable[[], MonitoredValues],
        webhook: AlertWebhook | None,
        sends_notifications: Callable[[], bool],
        began_at: datetime,
    ) -> None:
        self._total = total
        self._reports = board
        self._watched = monitored
        self._webhook = webhook
        self._sends_notifications = tells
        self._began_at = began_at
        self._states = {alert.name: AlertState() for alert in ALERTS}
        self._drifted = CounterGrowth(minutes=WINDOW_MINUTES)
        self._in_doubt = CounterGrowth(minutes=WINDOW_MINUTES)

    async def evaluate_until_cancelled(self, ready: Callable[[], bool]) -> None:
        """Until cancelled. Nothing is judged while not all is counted: a table that fills would look like growth."""
        while True:
            if ready():
                self.evaluate_all(datetime.now(UTC))
            await asyncio.sleep(_EVERY_S)

    def evaluate_all(self, now: datetime) -> None:
        numbers = self._numbers(now)
        for alert in ALERTS:
            self._states[alert.name], change = evaluate_alert(
                alert, self._states[alert.name], alert.value(numbers), now
            )
            if change is not None:
                self._tell(change)

    def active_alerts(self) -> list[dict[str, Any]]:
        """Worst first, then the one that began first."""
        standing = [
            (alert, state)
            for alert in ALERTS
            if (state := self._states[alert.name]).severity is not None
        ]
        standing.sort(key=lambda one: (-severity_rank(one[1].severity), one[1].since))
        return [alert_json(alert, state) for alert, state in standing]

    def _numbers(self, now: datetime) -> AlertInputs:
        """What a silent scheduler said last is old: it counts as unknown."""
        total, reports, monitored = self._total(), self._reports, self._watched()
        scheduler = reports.scheduler if reports.scheduler_is_alive(now) else None
        oldest = scheduler.oldest_pending_at if scheduler is not None else None
        minutes = (
            THROUGHPUT_MINUTES + now.timestamp() % 60 / 60
        )  # whole ones, and the one that runs
        done_lately, _ = aggregate.in_last_minutes(total, THROUGHPUT_MINUTES, now.timestamp())
        done, failed = aggregate.in_last_minutes(total, WINDOW_MINUTES, now.timestamp())
        return AlertInputs(
            pending=scheduler.pending if scheduler is not None else None,
            due=scheduler.pending - scheduler.delayed if scheduler is not None else None,
            oldest_wait_s=((now - oldest).total_seconds() if oldest else 0.0)
            if scheduler is not None
            else None,
            failed_percent=100 * failed / (done + failed) if done + failed >= MIN_ENDED_JOBS else 0.0,
            done_per_minute=done_lately / minutes,
            open_circuits=reports.count_open_circuits(now),
            workers=len(reports.alive_workers(now)),
            drifted=self._drifted.record(reports.scheduler.drifted if reports.scheduler else None, now),
            in_doubt=self._in_doubt.record(total.get("in_doubt", 0), now),
            dead_letters=monitored.dead_letters,
            miscounted=monitored.drift.jobs if monitored.drift is not None else None,
            scheduler_silent_s=(
                now - (reports.scheduler.at if reports.scheduler else self._began_at)
            ).total_seconds(),
        )

    def _tell(self, change: AlertChange) -> None:
        alert, after = change.alert, change.after
        known = {
            "alert": alert.name,
            "value": change.value,
            "unit": alert.unit,
            "before": change.before,
        }
        if change.unknown:
            log.warning("alert taken back: its value has been unknown for long", **known)
        elif after is None:
            log.info("alert cleared", **known)
        elif change.is_worse:
            speak = log.error if after is Severity.CRITICAL else log.warning
            speak(
                "alert raised",
                **known,
                severity=after,
                threshold=find_level(alert, after).raise_at,
                means=alert.advice,
            )
        else:
            log.warning("alert eased", **known, severity=after)
        if self._webhook is not None and self._sends_notifications():
            self._webhook.enqueue(_text(change))


def alert_json(alert: Alert, state: AlertState) -> dict[str, Any]:
    """An alert in force, as the API and the page tell it."""
    assert state.severity is not None
    assert state.value is not None
    return {
        "name": alert.name,
        "severity": state.severity,
        "summary": summary_text(alert, state.value),
        "means": alert.advice,
        "value": round(state.value, 2),
        "threshold": find_level(alert, state.severity).raise_at,
        "unit": alert.unit,
        "since": state.since,
    }


def _text(change: AlertChange) -> str:
    """For people, in a chat."""
    alert = change.alert
    if change.unknown:
        return f"[unknown] {alert.name}: nobody can say any more; the last that was known: {summary_text(alert, change.value)}"
    if change.after is None:
        return f"[cleared] {alert.name}: {summary_text(alert, change.value)}"
    return f"[{change.after}] {alert.name}: {summary_text(alert, change.value)}. {alert.advice}"
