"""Evaluates all alerts once a second, and reports changes to the log, the API and the webhook."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from services.metrics.alerts.counter_growth import CounterGrowth
from services.metrics.alerts.definitions import (
    ALERTS,
    MIN_ENDED_JOBS,
    THROUGHPUT_MINUTES,
    WINDOW_MINUTES,
)
from services.metrics.alerts.rules import (
    Alert,
    AlertChange,
    AlertInputs,
    AlertState,
    Severity,
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
    """Keeps the state of every alert.

    `webhook`, if any, gets every change while `sends_notifications` is true: one process sends for
    all.
    """

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
        self._reports = reports
        self._monitored = monitored
        self._webhook = webhook
        self._sends_notifications = sends_notifications
        self._began_at = began_at
        self._states = {alert.name: AlertState() for alert in ALERTS}
        self._causes: dict[str, tuple[str, ...]] = {}
        self._drifted = CounterGrowth(minutes=WINDOW_MINUTES)
        self._in_doubt = CounterGrowth(minutes=WINDOW_MINUTES)

    async def evaluate_until_cancelled(self, ready: Callable[[], bool]) -> None:
        """Evaluate once a second while `ready()`: a table being filled would look like growth."""
        while True:
            if ready():
                self.evaluate_all(datetime.now(UTC))
            await asyncio.sleep(_EVERY_S)

    def evaluate_all(self, now: datetime) -> None:
        inputs = self._collect_inputs(now)
        for alert in ALERTS:
            self._states[alert.name], change = evaluate_alert(
                alert, self._states[alert.name], alert.value(inputs), now
            )
            causes = alert.causes(inputs)
            self._causes[alert.name] = causes
            if change is not None:
                self._report_change(replace(change, causes=causes))

    def active_alerts(self) -> list[dict[str, Any]]:
        """Return the active alerts as JSON: the worst first, then the oldest."""
        active = [
            (alert, state)
            for alert in ALERTS
            if (state := self._states[alert.name]).severity is not None
        ]
        active.sort(key=lambda one: (-severity_rank(one[1].severity), one[1].since))
        return [alert_json(alert, state, self._causes[alert.name]) for alert, state in active]

    def _collect_inputs(self, now: datetime) -> AlertInputs:
        """Collect all values. Those of a silent scheduler count as unknown."""
        total, reports, monitored = self._total(), self._reports, self._monitored()
        scheduler = reports.scheduler if reports.scheduler_is_alive(now) else None
        oldest = scheduler.oldest_pending_at if scheduler is not None else None
        # The whole minutes and the current one:
        minutes = THROUGHPUT_MINUTES + now.timestamp() % 60 / 60
        recently_done, _ = aggregate.in_last_minutes(total, THROUGHPUT_MINUTES, now.timestamp())
        done, failed = aggregate.in_last_minutes(total, WINDOW_MINUTES, now.timestamp())
        ended = done + failed
        return AlertInputs(
            pending=scheduler.pending if scheduler is not None else None,
            due=scheduler.pending - scheduler.delayed if scheduler is not None else None,
            oldest_wait_s=((now - oldest).total_seconds() if oldest else 0.0)
            if scheduler is not None
            else None,
            failed_percent=100 * failed / ended if ended >= MIN_ENDED_JOBS else 0.0,
            done_per_minute=recently_done / minutes,
            open_circuits=reports.count_open_circuits(now),
            open_circuit_reasons=reports.open_circuit_reasons(now),
            workers=len(reports.alive_workers(now)),
            drifted=self._drifted.record(
                reports.scheduler.drifted if reports.scheduler else None, now
            ),
            in_doubt=self._in_doubt.record(total.get("in_doubt", 0), now),
            dead_letters=monitored.dead_letters,
            miscounted=monitored.drift.jobs if monitored.drift is not None else None,
            scheduler_silent_s=(
                now - (reports.scheduler.at if reports.scheduler else self._began_at)
            ).total_seconds(),
        )

    def _report_change(self, change: AlertChange) -> None:
        alert, after = change.alert, change.after
        fields = {
            "alert": alert.name,
            "value": change.value,
            "unit": alert.unit,
            "before": change.before,
        }
        if change.unknown:
            log.warning("alert withdrawn, value unknown", **fields)
        elif after is None:
            log.info("alert cleared", **fields)
        elif change.is_worse:
            write = log.error if after is Severity.CRITICAL else log.warning
            write(
                "alert raised",
                **fields,
                severity=after,
                threshold=find_level(alert, after).raise_at,
                advice=alert.advice,
                causes=change.causes,
            )
        else:
            log.warning("alert lowered", **fields, severity=after)
        if self._webhook is not None and self._sends_notifications():
            self._webhook.enqueue(_chat_message(change))


def alert_json(alert: Alert, state: AlertState, causes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return an active alert as the API and the dashboard show it."""
    assert state.severity is not None
    assert state.value is not None
    return {
        "name": alert.name,
        "severity": state.severity,
        "summary": summary_text(alert, state.value),
        "means": alert.advice,
        "causes": causes,
        "value": round(state.value, 2),
        "threshold": find_level(alert, state.severity).raise_at,
        "unit": alert.unit,
        "since": state.since,
    }


def _chat_message(change: AlertChange) -> str:
    alert, summary = change.alert, summary_text(change.alert, change.value)
    if change.unknown:
        return f"[unknown] {alert.name}: the value is unknown; the last known one was: {summary}"
    if change.after is None:
        return f"[cleared] {alert.name}: {summary}"
    causes = "".join(f" {cause}." for cause in change.causes)
    return f"[{change.after}] {alert.name}: {summary}.{causes} {alert.advice}"
