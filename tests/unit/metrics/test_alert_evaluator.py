"""The alerts' shell: what the board and the aggregates say becomes numbers, and what changed is told once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.metrics.alerts.evaluator import AlertEvaluator
from services.metrics.alerts.webhook import AlertWebhook
from services.metrics.cluster import monitored as rules_watched
from services.metrics.cluster.latest_reports import LatestReports
from services.metrics.reconcile.rules import Drift
from services.metrics.settings import MetricsSettings
from shared.domain.errors import Unavailable
from shared.domain.messages import WorkerReport
from tests.support.chat_receiver import SECRET, start_chat_receiver
from tests.support.eventually import eventually
from tests.support.metrics_events import NOW, count_in_new_table, job_events, make_worker_report, make_scheduler_report

NOTHING = count_in_new_table([])[1]
ENDED = [event for number in range(18) for event in job_events(number)]
FAILED = [event for number in range(18, 20) for event in job_events(number, failed=True)]


class MonitoredValues:
    """AlertEvaluator over a board and events that a test changes; a second passes with every look."""

    def __init__(self, total: dict[str, Any] | None = None, webhook: AlertWebhook | None = None) -> None:
        self.tells = True
        self.board = LatestReports(silence_s=10)
        self.beside = rules_watched.MonitoredValues()
        self.total: dict[str, Any] = dict(total or NOTHING)
        self.now = NOW
        self.alerts = AlertEvaluator(
            total=lambda: self.total,
            reports=self.reports,
            watched=lambda: self.beside,
            webhook=webhook,
            sends_notifications=lambda: self.tells,
            began_at=NOW,
        )

    def seconds(
        self, count: int, *, worker: WorkerReport | None = None, said: dict[str, Any] | None = None
    ) -> None:
        for _ in range(count):
            self.now += timedelta(seconds=1)
            if worker is not None:
                self.reports.add_report(replace(worker, at=self.now))
            if said is not None:
                changes = {"oldest_pending_at": None} | said
                self.reports.add_report(replace(make_scheduler_report(0, at=self.now), **changes))
            self.alerts.evaluate_all(self.now)

    def active_alerts(self) -> dict[str, tuple[str, float]]:
        return {item["name"]: (item["severity"], item["value"]) for item in self.alerts.active_alerts()}


def test_a_quiet_system_has_no_alert() -> None:
    watched = MonitoredValues(count_in_new_table(ENDED)[1])
    watched.seconds(400, worker=make_worker_report("w"), said={})
    assert watched.active_alerts() == {}


def test_silence_is_told_of_workers_and_of_the_scheduler_and_what_it_said_before_is_not_judged() -> (
    None
):
    watched = MonitoredValues()
    oldest = NOW - timedelta(seconds=1_790)  # half an hour, were it judged while nobody says so
    watched.seconds(10, worker=make_worker_report("w"), said={"pending": 2_000, "oldest_pending_at": oldest})
    assert watched.active_alerts() == {"queue-long": ("warning", 2_000)}
    watched.seconds(75)
    assert watched.active_alerts() == {
        "no-workers": ("critical", 0),
        "scheduler-silent": ("critical", 75),
        "queue-long": ("warning", 2_000),
    }
    watched.seconds(20, worker=make_worker_report("w"), said={})
    assert watched.active_alerts() == {}


def test_a_scheduler_that_was_never_heard_is_silent_since_we_began() -> None:
    watched = MonitoredValues()
    watched.seconds(16, worker=make_worker_report("w"))
    assert watched.active_alerts() == {"scheduler-silent": ("warning", 16)}


def test_failures_are_judged_by_their_share_and_few_ended_jobs_prove_nothing() -> None:
    watched = MonitoredValues(count_in_new_table(ENDED + FAILED)[1])
    watched.seconds(20, worker=make_worker_report("w"), said={})
    assert watched.active_alerts() == {"error-rate": ("warning", 10)}
    watched = MonitoredValues(count_in_new_table(FAILED)[1])
    watched.seconds(20, worker=make_worker_report("w"), said={})
    assert watched.active_alerts() == {}


def test_what_waits_for_its_hour_makes_no_alert() -> None:
    watched = MonitoredValues()
    watched.seconds(400, worker=make_worker_report("w"), said={"pending": 5, "delayed": 5})
    assert watched.active_alerts() == {}
    watched.seconds(301, worker=make_worker_report("w"), said={"pending": 5, "delayed": 4})
    assert watched.active_alerts() == {"throughput-low": ("critical", 0)}


def test_the_speed_is_that_of_whole_minutes_and_of_the_one_that_runs() -> None:
    watched = MonitoredValues(count_in_new_table([event for number in range(30) for event in job_events(number)])[1])
    watched.now = NOW + timedelta(minutes=4, seconds=28)
    watched.seconds(300, worker=make_worker_report("w"), said={"pending": 5})
    assert watched.active_alerts() == {}, (
        "30 of five minutes and a half are more than 5 a minute, until they are too old"
    )
    watched.seconds(300, worker=make_worker_report("w"), said={"pending": 5})
    assert watched.active_alerts() == {"throughput-low": ("critical", 0)}


def test_money_repairs_and_doubt_are_told_at_once() -> None:
    watched = MonitoredValues()
    watched.seconds(1, worker=make_worker_report("w"), said={"drifted": 7})
    assert watched.active_alerts() == {}, "what was repaired before we looked is history"
    broke = replace(make_worker_report("w"), limiters=(replace(make_worker_report("w").limiters[0], circuit_open=True),))
    watched.total["in_doubt"] = 1
    watched.seconds(
        1, worker=broke, said={"drifted": 9, "oldest_pending_at": NOW - timedelta(hours=3)}
    )
    assert watched.active_alerts() == {
        "circuit-open": ("critical", 1),
        "slot-drift": ("warning", 2),
        "in-doubt-calls": ("warning", 1),
    }
    watched.seconds(
        16, worker=broke, said={"drifted": 9, "oldest_pending_at": NOW - timedelta(hours=3)}
    )
    assert list(watched.active_alerts()) == [
        "circuit-open",
        "oldest-wait",
        "slot-drift",
        "in-doubt-calls",
    ], "worst first"


def test_dead_letters_and_lost_events_are_told_once_they_are_looked_for() -> None:
    watched = MonitoredValues()
    watched.seconds(10, worker=make_worker_report("w"), said={})
    assert watched.active_alerts() == {}, "nobody has looked yet"
    watched.beside.dead_letters = 3
    watched.beside.drift = Drift(at=NOW, hours=24, jobs=2, cost_nanousd=0)
    watched.seconds(10, worker=make_worker_report("w"), said={})
    assert watched.active_alerts() == {"miscounted": ("warning", 2), "dead-letters": ("warning", 3)}
    watched.beside.dead_letters = 0
    watched.seconds(10, worker=make_worker_report("w"), said={})
    assert watched.active_alerts() == {"miscounted": ("warning", 2)}


async def test_what_nobody_knows_any_more_is_taken_back_and_said() -> None:
    async with start_chat_receiver() as chat, delivering(AlertWebhook(chat.url)) as webhook:
        watched = MonitoredValues(webhook=webhook)
        watched.beside.drift = Drift(at=NOW, hours=24, jobs=2, cost_nanousd=0)
        watched.seconds(1, worker=make_worker_report("w"), said={})
        watched.beside.drift = None
        watched.seconds(899, worker=make_worker_report("w"), said={})
        assert watched.active_alerts() == {"miscounted": ("warning", 2)}
        watched.seconds(1, worker=make_worker_report("w"), said={})
        assert watched.active_alerts() == {}
        await eventually(lambda: len(chat.heard) == 2)
    assert chat.heard[1].startswith("[unknown] miscounted")


async def test_of_several_processes_one_tells_the_webhook() -> None:
    async with start_chat_receiver() as chat, delivering(AlertWebhook(chat.url)) as webhook:
        watched = MonitoredValues(webhook=webhook)
        watched.tells = False
        watched.seconds(10, worker=make_worker_report("w"), said={"pending": 2_000})
        assert watched.active_alerts() == {"queue-long": ("warning", 2_000)}
        watched.tells = True
        watched.seconds(20, worker=make_worker_report("w"), said={})
        await eventually(lambda: chat.heard)
    assert [text.split()[0] for text in chat.heard] == ["[cleared]"]


async def test_what_a_chat_refuses_is_given_up_and_the_next_one_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with start_chat_receiver(404) as chat, delivering(AlertWebhook(chat.url)) as webhook:
        webhook.enqueue("refused")
        webhook.enqueue("taken")
        await eventually(lambda: chat.heard)
    assert (chat.heard, chat.tries) == (["taken"], 2)
    said = capsys.readouterr().out
    assert "given up" in said
    assert SECRET not in said


def test_what_waits_for_a_chat_has_a_bound(capsys: pytest.CaptureFixture[str]) -> None:
    webhook = AlertWebhook(f"http://127.0.0.1:1/{SECRET}")
    for number in range(200):
        webhook.enqueue(str(number))
    assert capsys.readouterr().out.count("one is dropped") == 100


def test_an_address_that_is_none_is_refused_at_the_start_without_being_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
    monkeypatch.setenv("ALERT_WEBHOOK_URL", f"hooks.chat/{SECRET}")
    with pytest.raises(Unavailable) as refused:
        MetricsSettings.from_environment()
    assert "ALERT_WEBHOOK_URL: value error, must begin with https:// or http://" in str(
        refused.value
    )
    assert SECRET not in str(refused.value)
    monkeypatch.setenv("ALERT_WEBHOOK_URL", f"https://hooks.chat/{SECRET}")
    assert SECRET not in repr(MetricsSettings.from_environment())


@asynccontextmanager
async def delivering(webhook: AlertWebhook) -> AsyncIterator[AlertWebhook]:
    task = asyncio.create_task(webhook.deliver_until_cancelled())
    yield webhook
    task.cancel()
    await asyncio.wait({task})
