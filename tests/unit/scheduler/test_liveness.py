"""The failure detector: a worker without reports and connections is dead, nothing else is."""

from collections.abc import Set
from datetime import UTC, datetime, timedelta

import pytest

from services.scheduler.liveness.rules import FailureDetector, OpenConnection

SILENCE_S = 5.0
STARTED_AT = datetime(2026, 1, 1, tzinfo=UTC)


def open_connections(
    process: str, *pids: int, started_at: datetime | None = STARTED_AT
) -> frozenset[OpenConnection]:
    return frozenset(OpenConnection(process, pid, started_at) for pid in pids)


OBSERVER = open_connections("scheduler", 1, 2)
WITH_WORKER = OBSERVER | open_connections("w", 7, started_at=None)


class Timeline:
    """Looks at the connections once a second, as the scheduler does."""

    def __init__(self) -> None:
        self._detector = FailureDetector(observer="scheduler", silence_s=SILENCE_S)
        self.now = 100.0
        self.dead: list[tuple[str, float]] = []

    def advance(
        self,
        seconds: int,
        connections: Set[OpenConnection],
        *,
        reporting: tuple[str, ...] = (),
    ) -> None:
        for _ in range(seconds):
            self.now += 1
            for worker in reporting:
                self._detector.record_report(worker, self.now)
            self._detector.record_connections(connections, self.now)
            self.dead += [(one, self.now) for one in self._detector.take_dead_workers(self.now)]


@pytest.fixture
def timeline() -> Timeline:
    """A worker has reported for three seconds, with a connection."""
    timeline = Timeline()
    timeline.advance(3, WITH_WORKER, reporting=("w",))
    return timeline


def test_killed_worker_is_dead_after_the_silence(timeline: Timeline) -> None:
    last_report = timeline.now
    timeline.advance(60, OBSERVER)
    # Its connections are found missing one second after its last report.
    assert timeline.dead == [("w", last_report + 1 + SILENCE_S)]


def test_frozen_worker_keeps_its_connections_and_is_not_dead(timeline: Timeline) -> None:
    timeline.advance(60, WITH_WORKER)
    assert timeline.dead == []


def test_reporting_worker_without_connections_is_not_dead(timeline: Timeline) -> None:
    timeline.advance(60, OBSERVER, reporting=("w",))
    assert timeline.dead == []


def test_reports_without_connections_make_the_connections_worthless(timeline: Timeline) -> None:
    """A pooler or a limit of connections hides them: the worker may freeze and not die."""
    timeline.advance(7, OBSERVER, reporting=("w",))
    timeline.advance(60, OBSERVER)
    assert timeline.dead == []


def test_worker_that_connects_again_is_observed_anew(timeline: Timeline) -> None:
    timeline.advance(7, OBSERVER, reporting=("w",))
    timeline.advance(3, WITH_WORKER, reporting=("w",))
    timeline.advance(60, OBSERVER)
    assert [worker for worker, _ in timeline.dead] == ["w"]


def test_late_last_report_delays_the_verdict(timeline: Timeline) -> None:
    """The report of a killed worker may be read after its connections were found missing."""
    timeline.advance(2, OBSERVER, reporting=("w",))
    last_report = timeline.now
    timeline.advance(60, OBSERVER)
    assert timeline.dead == [("w", last_report + SILENCE_S)]


def test_worker_never_seen_with_a_connection_is_not_dead() -> None:
    timeline = Timeline()
    timeline.advance(3, OBSERVER, reporting=("w",))
    timeline.advance(60, OBSERVER)
    assert timeline.dead == []


def test_worker_that_has_not_reported_in_this_session_is_not_dead() -> None:
    timeline = Timeline()
    timeline.advance(3, WITH_WORKER)
    timeline.advance(60, OBSERVER)
    assert timeline.dead == []


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(open_connections("scheduler", 3, 4), id="other pids"),
        pytest.param(
            open_connections("scheduler", 2, 3, started_at=STARTED_AT + timedelta(hours=1)),
            id="one pid again, as in a container",
        ),
        pytest.param(frozenset(), id="none"),
    ],
)
def test_restart_of_postgresql_declares_no_frozen_worker_dead(
    timeline: Timeline, own: Set[OpenConnection]
) -> None:
    timeline.advance(60, own)
    assert timeline.dead == []


def test_restart_of_postgresql_after_a_death_leaves_the_job_to_its_lease(
    timeline: Timeline,
) -> None:
    timeline.advance(3, OBSERVER)
    timeline.advance(60, open_connections("scheduler", 3))
    assert timeline.dead == []


def test_replacement_of_some_own_connections_changes_nothing(timeline: Timeline) -> None:
    for number in range(2, 9):
        timeline.advance(1, open_connections("scheduler", number, number + 1))
    assert [worker for worker, _ in timeline.dead] == ["w"]


def test_gap_of_the_observer_declares_nobody_dead(timeline: Timeline) -> None:
    """A scheduler that was frozen itself reads the reports and connections of living workers."""
    timeline.now += 60
    timeline.advance(1, OBSERVER)  # the worker is about to connect again
    timeline.advance(3, WITH_WORKER, reporting=("w",))
    assert timeline.dead == []


def test_dead_worker_is_named_once(timeline: Timeline) -> None:
    timeline.advance(1, WITH_WORKER | open_connections("v", 8), reporting=("w", "v"))
    timeline.advance(60, WITH_WORKER, reporting=("w",))
    timeline.advance(60, OBSERVER)
    assert [worker for worker, _ in timeline.dead] == ["v", "w"]
