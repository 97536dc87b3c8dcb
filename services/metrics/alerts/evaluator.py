"""Judges the numbers once a second, and says what was raised and cleared: to the log, the API and the webhook."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from services.metrics.alerts.definitions import (
    ALERTS,
    FEWEST_ENDED,
    THROUGHPUT_MINUTES,
    WINDOW_MINUTES,
)
from services.metrics.alerts.growth import Growth
from services.metrics.alerts.rules import (
    Alert,
    Change,
    Numbers,
    Severity,
    State,
    judge,
    level_of,
    rank,
    said,
)
from services.metrics.alerts.webhook import Webhook
from services.metrics.cluster.latest_reports import Board
from services.metrics.cluster.monitored import Watched
from services.metrics.counting.rules import aggregate
from services.metrics.counting.rules.aggregate import Aggregate
from shared.observability.log import get_logger

log = get_logger(__name__)

_EVERY_S = 1.0


class Alerts:
    """`webhook` hears of every change, if there is one and `tells` says that it is this process's part to tell."""

    def __init__(
        self,
        *,
        total: Callable[[], Aggregate],
        board: Board,
        watched: Callable[[], Watched],
        webhook: Webhook | None,
        tells: Callable[[], bool],
        began_at: datetime,
    ) -> None:
        self._total = total
        self._board = board
        self._watched = watched
        self._webhook = webhook
        self._tells = tells
        self._began_at = began_at
        self._states = {alert.name: State() for alert in ALERTS}
        self._drifted = Growth(minutes=WINDOW_MINUTES)
        self._in_doubt = Growth(minutes=WINDOW_MINUTES)

    async def watch(self, ready: Callable[[], bool]) -> None:
        """Until cancelled. Nothing is judged while not all is counted: a table that fills would look like growth."""
        while True:
            if ready():
                self.look(datetime.now(UTC))
            await asyncio.sleep(_EVERY_S)

    def look(self, now: datetime) -> None:
        numbers = self._numbers(now)
        for alert in ALERTS:
            self._states[alert.name], change = judge(
                alert, self._states[alert.name], alert.value(numbers), now
            )
            if change is not None:
                self._tell(change)

    def in_force(self) -> list[dict[str, Any]]:
        """Worst first, then the one that began first."""
        standing = [
            (alert, state)
            for alert in ALERTS
            if (state := self._states[alert.name]).severity is not None
        ]
        standing.sort(key=lambda one: (-rank(one[1].severity), one[1].since))
        return [item(alert, state) for alert, state in standing]

    def _numbers(self, now: datetime) -> Numbers:
        """What a silent scheduler said last is old: it counts as unknown."""
        total, board, watched = self._total(), self._board, self._watched()
        scheduler = board.scheduler if board.scheduler_is_heard(now) else None
        oldest = scheduler.oldest_pending_at if scheduler is not None else None
        minutes = (
            THROUGHPUT_MINUTES + now.timestamp() % 60 / 60
        )  # whole ones, and the one that runs
        done_lately, _ = aggregate.in_last_minutes(total, THROUGHPUT_MINUTES, now.timestamp())
        done, failed = aggregate.in_last_minutes(total, WINDOW_MINUTES, now.timestamp())
        return Numbers(
            pending=scheduler.pending if scheduler is not None else None,
            due=scheduler.pending - scheduler.delayed if scheduler is not None else None,
            oldest_wait_s=((now - oldest).total_seconds() if oldest else 0.0)
            if scheduler is not None
            else None,
            failed_percent=100 * failed / (done + failed) if done + failed >= FEWEST_ENDED else 0.0,
            done_per_minute=done_lately / minutes,
            open_circuits=board.open_circuits(now),
            workers=len(board.alive(now)),
            drifted=self._drifted.see(board.scheduler.drifted if board.scheduler else None, now),
            in_doubt=self._in_doubt.see(total.get("in_doubt", 0), now),
            dead_letters=watched.dead_letters,
            miscounted=watched.drift.jobs if watched.drift is not None else None,
            scheduler_silent_s=(
                now - (board.scheduler.at if board.scheduler else self._began_at)
            ).total_seconds(),
        )

    def _tell(self, change: Change) -> None:
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
        elif change.worse:
            speak = log.error if after is Severity.CRITICAL else log.warning
            speak(
                "alert raised",
                **known,
                severity=after,
                threshold=level_of(alert, after).raise_at,
                means=alert.means,
            )
        else:
            log.warning("alert eased", **known, severity=after)
        if self._webhook is not None and self._tells():
            self._webhook.send(_text(change))


def item(alert: Alert, state: State) -> dict[str, Any]:
    """An alert in force, as the API and the page tell it."""
    assert state.severity is not None
    assert state.value is not None
    return {
        "name": alert.name,
        "severity": state.severity,
        "summary": said(alert, state.value),
        "means": alert.means,
        "value": round(state.value, 2),
        "threshold": level_of(alert, state.severity).raise_at,
        "unit": alert.unit,
        "since": state.since,
    }


def _text(change: Change) -> str:
    """For people, in a chat."""
    alert = change.alert
    if change.unknown:
        return f"[unknown] {alert.name}: nobody can say any more; the last that was known: {said(alert, change.value)}"
    if change.after is None:
        return f"[cleared] {alert.name}: {said(alert, change.value)}"
    return f"[{change.after}] {alert.name}: {said(alert, change.value)}. {alert.means}"
