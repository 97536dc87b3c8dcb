"""The acceptance scenarios of the fair queue against their bars, and the fairness measures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.simulation.model import SimulatedJob, simulate
from bench.simulation.policies import POLICIES, FairPolicy, FifoPolicy
from bench.simulation.scenarios import SCENARIOS, Scenario
from services.scheduler.fair_queue.fairness import FairnessMonitor, jain_index, largest_gap


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_fair_queue_meets_the_bar(scenario: Scenario) -> None:
    number = scenario.evaluate(FairPolicy)
    assert scenario.meets_bar(number), f"{scenario.question}: {number:.3f}, wanted {scenario.bar}"


def test_fifo_fails_every_scenario() -> None:
    """A scenario that first come, first served passes would prove nothing."""
    assert not [
        scenario.name for scenario in SCENARIOS if scenario.meets_bar(scenario.evaluate(FifoPolicy))
    ]


@pytest.mark.parametrize("name", POLICIES)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 50), st.sampled_from("abc"), st.integers(1, 9), st.integers(1, 20)
        ),
        max_size=60,
    ),
    st.integers(1, 5),
)
def test_policy_runs_every_job_once_and_leaves_no_idle_slot(
    name: str, arrivals: list[tuple[int, str, int, int]], slots: int
) -> None:
    jobs = [
        SimulatedJob(number=number, store=store, requested_at=at, cost=cost, seconds=seconds)
        for number, (at, store, cost, seconds) in enumerate(arrivals)
    ]
    served = simulate(POLICIES[name]({}), jobs, slots=slots)
    assert sorted(served_job.job.number for served_job in served) == list(range(len(jobs)))
    for served_job in served:
        for moment in (
            job.requested_at
            for job in jobs
            if served_job.job.requested_at <= job.requested_at < served_job.started_at
        ):
            running = [other for other in served if other.started_at <= moment < other.ended_at]
            assert len(running) == slots


def test_jain_index_and_largest_gap() -> None:
    assert jain_index([3, 3, 3]) == jain_index([]) == jain_index([0, 0]) == 1
    assert jain_index([1, 0, 0, 0]) == 0.25
    assert largest_gap([1, 5, 2]) == 4
    assert largest_gap([]) == 0


def test_window_compares_accounts_that_always_have_work() -> None:
    monitor = FairnessMonitor(seconds=10, now=0)
    for second in range(1, 11):
        waiting = {"heavy": ["heavy"], "team": ["one", "two"]} | (
            {"late": ["late"]} if second == 9 else {}
        )
        monitor.record_dispatch("heavy", "heavy", money_per_weight=3, wait_s=50)
        monitor.record_dispatch("one", "team", money_per_weight=1, wait_s=50)
        if second % 3 == 0:
            monitor.record_dispatch("late", "late", money_per_weight=9, wait_s=2)
            monitor.record_run_time(20)
        assert monitor.last_window is None
        monitor.observe_backlog(waiting, second)
    assert monitor.last_window is not None
    assert (
        monitor.last_window.contenders,
        monitor.last_window.seconds,
        monitor.last_window.light_stores,
    ) == (2, 10, 1)
    assert monitor.last_window.jain == jain_index([30, 10])
    assert monitor.last_window.largest_gap == 20
    assert monitor.last_window.light_slowdown == pytest.approx(22 / 20)
    monitor.observe_backlog({}, 20)
    assert (monitor.last_window.contenders, monitor.last_window.light_slowdown) == (0, None)
