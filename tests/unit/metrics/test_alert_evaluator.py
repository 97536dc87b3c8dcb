"""The alert evaluator: values become alerts, and each change is reported once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.metrics.alerts.evaluator import AlertEvaluator
from services.metrics.alerts.webhook import AlertWebhook
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.cluster.monitored_values import MonitoredValues
from services.metrics.settings import MetricsSettings
from shared.domain.errors import Unavailable
from shared.domain.messages import WorkerReport
from tests.support.chat_receiver import SECRET, start_chat_receiver
from tests.support.eventually import eventually
from tests.support.metrics_events import (
    DRIFT,
    NOW,
    count_in_new_table,
    job_events,
    make_scheduler_report,
    make_worker_report,
)

WORKER = make_worker_report("w")
NO_EVENTS = count_in_new_table([])[1]
ENDED = [event for number in range(18) for event in job_events(number)]
FAILED = [event for number in range(18, 20) for event in job_events(number, failed=True)]


class EvaluatedSystem:
    """An evaluator over reports and totals that a test changes.

    Evaluates once a simulated second.
    """

    def __init__(
        self, total: dict[str, Any] | None = None, webhook: AlertWebhook | None = None
    ) -> None:
        self.sends = True
        self.reports = LatestReports(silence_s=10)
        self.monitored = MonitoredValues()
        self.total: dict[str, Any] = dict(total or NO_EVENTS)
        self.now = NOW
        self.alerts = AlertEvaluator(
            total=lambda: self.total,
            reports=self.reports,
            monitored=lambda: self.monitored,
            webhook=webhook,
            sends_notifications=lambda: self.sends,
            began_at=NOW,
        )

    def pass_seconds(
        self,
        count: int,
        *,
        worker: WorkerReport | None = None,
        scheduler: dict[str, Any] | None = None,
    ) -> None:
        for _ in range(count):
            self.now += timedelta(seconds=1)
            if worker is not None:
                self.reports.add_report(replace(worker, at=self.now))
            if scheduler is not None:
                changes = {"oldest_pending_at": None} | scheduler
                self.reports.add_report(replace(make_scheduler_report(0, at=self.now), **changes))
            self.alerts.evaluate_all(self.now)

    def active_alerts(self) -> dict[str, tuple[str, float]]:
        return {
            alert["name"]: (alert["severity"], alert["value"])
            for alert in self.alerts.active_alerts()
        }


def test_quiet_system_has_no_alert() -> None:
    system = EvaluatedSystem(count_in_new_table(ENDED)[1])
    system.pass_seconds(400, worker=WORKER, scheduler={})
    assert system.active_alerts() == {}


def test_silent_workers_and_scheduler_raise_alerts() -> None:
    system = EvaluatedSystem()
    oldest = NOW - timedelta(seconds=1_790)  # would reach half an hour if evaluated while silent
    system.pass_seconds(
        10, worker=WORKER, scheduler={"pending": 2_000, "oldest_pending_at": oldest}
    )
    assert system.active_alerts() == {"queue-long": ("warning", 2_000)}
    system.pass_seconds(75)
    assert system.active_alerts() == {
        "no-workers": ("critical", 0),
        "scheduler-silent": ("critical", 75),
        "queue-long": ("warning", 2_000),
    }
    system.pass_seconds(20, worker=WORKER, scheduler={})
    assert system.active_alerts() == {}


def test_missing_scheduler_is_silent_since_the_start() -> None:
    system = EvaluatedSystem()
    system.pass_seconds(16, worker=WORKER)
    assert system.active_alerts() == {"scheduler-silent": ("warning", 16)}


def test_error_rate_needs_enough_ended_jobs() -> None:
    system = EvaluatedSystem(count_in_new_table(ENDED + FAILED)[1])
    system.pass_seconds(20, worker=WORKER, scheduler={})
    assert system.active_alerts() == {"error-rate": ("warning", 10)}
    system = EvaluatedSystem(count_in_new_table(FAILED)[1])
    system.pass_seconds(20, worker=WORKER, scheduler={})
    assert system.active_alerts() == {}


def test_delayed_jobs_raise_no_throughput_alert() -> None:
    system = EvaluatedSystem()
    system.pass_seconds(400, worker=WORKER, scheduler={"pending": 5, "delayed": 5})
    assert system.active_alerts() == {}
    system.pass_seconds(301, worker=WORKER, scheduler={"pending": 5, "delayed": 4})
    assert system.active_alerts() == {"throughput-low": ("critical", 0)}


def test_throughput_covers_whole_minutes_and_current_one() -> None:
    system = EvaluatedSystem(
        count_in_new_table([event for number in range(30) for event in job_events(number)])[1]
    )
    system.now = NOW + timedelta(minutes=4, seconds=28)
    system.pass_seconds(300, worker=WORKER, scheduler={"pending": 5})
    assert system.active_alerts() == {}, (
        "30 jobs in five and a half minutes are more than 5 a minute"
    )
    system.pass_seconds(300, worker=WORKER, scheduler={"pending": 5})
    assert system.active_alerts() == {"throughput-low": ("critical", 0)}


def test_circuits_repairs_and_in_doubt_calls_raise_at_once() -> None:
    system = EvaluatedSystem()
    system.pass_seconds(1, worker=WORKER, scheduler={"drifted": 7})
    assert system.active_alerts() == {}, "repairs before the first evaluation do not count"
    open_circuit = replace(WORKER, limiters=(replace(WORKER.limiters[0], circuit_open=True),))
    system.total["in_doubt"] = 1
    system.pass_seconds(
        1,
        worker=open_circuit,
        scheduler={"drifted": 9, "oldest_pending_at": NOW - timedelta(hours=3)},
    )
    assert system.active_alerts() == {
        "circuit-open": ("critical", 1),
        "slot-drift": ("warning", 2),
        "in-doubt-calls": ("warning", 1),
    }
    system.pass_seconds(
        16,
        worker=open_circuit,
        scheduler={"drifted": 9, "oldest_pending_at": NOW - timedelta(hours=3)},
    )
    assert list(system.active_alerts()) == [
        "circuit-open",
        "oldest-wait",
        "slot-drift",
        "in-doubt-calls",
    ], "worst first"


async def test_open_circuit_names_model_address_and_the_providers_words() -> None:
    reason = "gpt-9 at https://gate.example/v1: no such model: The model `gpt-9` does not exist"
    limiter = replace(WORKER.limiters[0], circuit_open=True, open_reason=reason)
    async with start_chat_receiver() as chat, run_delivery(AlertWebhook(chat.url)) as webhook:
        system = EvaluatedSystem(webhook=webhook)
        system.pass_seconds(1, worker=replace(WORKER, limiters=(limiter,)), scheduler={})
        assert system.alerts.active_alerts()[0]["causes"] == (f"openai: {reason}",)
        await eventually(lambda: chat.received)
    assert f"openai: {reason}" in chat.received[0]


def test_dead_letters_and_drift_raise_once_measured() -> None:
    system = EvaluatedSystem()
    system.pass_seconds(10, worker=WORKER, scheduler={})
    assert system.active_alerts() == {}, "not measured yet"
    system.monitored.dead_letters = 3
    system.monitored.drift = replace(DRIFT, jobs=2)
    system.pass_seconds(10, worker=WORKER, scheduler={})
    assert system.active_alerts() == {"miscounted": ("warning", 2), "dead-letters": ("warning", 3)}
    system.monitored.dead_letters = 0
    system.pass_seconds(10, worker=WORKER, scheduler={})
    assert system.active_alerts() == {"miscounted": ("warning", 2)}


async def test_alert_with_unknown_value_is_withdrawn() -> None:
    async with start_chat_receiver() as chat, run_delivery(AlertWebhook(chat.url)) as webhook:
        system = EvaluatedSystem(webhook=webhook)
        system.monitored.drift = replace(DRIFT, jobs=2)
        system.pass_seconds(1, worker=WORKER, scheduler={})
        system.monitored.drift = None
        system.pass_seconds(899, worker=WORKER, scheduler={})
        assert system.active_alerts() == {"miscounted": ("warning", 2)}
        system.pass_seconds(1, worker=WORKER, scheduler={})
        assert system.active_alerts() == {}
        await eventually(lambda: len(chat.received) == 2)
    assert chat.received[1].startswith("[unknown] miscounted")


async def test_only_one_process_sends_to_the_webhook() -> None:
    async with start_chat_receiver() as chat, run_delivery(AlertWebhook(chat.url)) as webhook:
        system = EvaluatedSystem(webhook=webhook)
        system.sends = False
        system.pass_seconds(10, worker=WORKER, scheduler={"pending": 2_000})
        assert system.active_alerts() == {"queue-long": ("warning", 2_000)}
        system.sends = True
        system.pass_seconds(20, worker=WORKER, scheduler={})
        await eventually(lambda: chat.received)
    assert [text.split()[0] for text in chat.received] == ["[cleared]"]


async def test_rejected_message_is_given_up_and_next_is_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with start_chat_receiver(404) as chat, run_delivery(AlertWebhook(chat.url)) as webhook:
        webhook.enqueue("refused")
        webhook.enqueue("taken")
        await eventually(lambda: chat.received)
    assert (chat.received, chat.requests) == (["taken"], 2)
    output = capsys.readouterr().out
    assert "given up" in output
    assert SECRET not in output


def test_webhook_queue_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    webhook = AlertWebhook(f"http://127.0.0.1:1/{SECRET}")
    for number in range(200):
        webhook.enqueue(str(number))
    assert capsys.readouterr().out.count("message dropped") == 100


def test_invalid_webhook_url_is_rejected_without_being_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
    monkeypatch.setenv("ALERT_WEBHOOK_URL", f"hooks.chat/{SECRET}")
    with pytest.raises(Unavailable) as rejected:
        MetricsSettings.from_environment()
    assert "ALERT_WEBHOOK_URL: value error, must begin with https:// or http://" in str(
        rejected.value
    )
    assert SECRET not in str(rejected.value)
    monkeypatch.setenv("ALERT_WEBHOOK_URL", f"https://hooks.chat/{SECRET}")
    assert SECRET not in repr(MetricsSettings.from_environment())


@asynccontextmanager
async def run_delivery(webhook: AlertWebhook) -> AsyncIterator[AlertWebhook]:
    task = asyncio.create_task(webhook.deliver_until_cancelled())
    yield webhook
    task.cancel()
    await asyncio.wait({task})
