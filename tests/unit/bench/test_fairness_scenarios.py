"""The acceptance scenarios of the fair queue against their bars, and the fairness measures."""

import pytest

from bench.simulation.policies import POLICIES, FifoPolicy, Stores, create_fair_queue
from bench.simulation.scenarios import Scenario, build_scenarios
from sandbox.simulation.arrivals import Burst
from sandbox.simulation.world import SimulatedWorld
from services.scheduler.fair_queue.fairness import FairnessMonitor, jain_index, largest_gap
from tests.support.simulated_worlds import make_settings, make_workload

SCENARIOS = [one for one in build_scenarios() if one.name != "many keys"]
"""Many keys take ten seconds: the benchmark runs them."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_fair_queue_meets_the_bar(scenario: Scenario) -> None:
    number = scenario.evaluate(create_fair_queue)
    assert scenario.meets_bar(number), f"{scenario.question}: {number:.3f}, wanted {scenario.bar}"


def test_fifo_fails_every_comparison_of_stores() -> None:
    """A scenario that first come, first served passes would prove nothing."""
    comparisons = [one for one in SCENARIOS if "at the limit" not in one.name]
    assert not [one.name for one in comparisons if one.meets_bar(one.evaluate(FifoPolicy))]


@pytest.mark.parametrize("name", POLICIES)
def test_policy_runs_every_job_once(name: str) -> None:
    bursts = [Burst(at=1, stores=3, posts=20), Burst(at=4, stores=2, posts=5)]
    world = SimulatedWorld(
        make_settings(slots=7), make_workload(bursts), queue=POLICIES[name](Stores())
    )
    world.run()
    assert (world.statistics.done, world.scheduler.queue.pending) == (70, 0)
    assert world.statistics.retries == 0


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
