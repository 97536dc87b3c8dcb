"""The acceptance scenarios of the fair order, by name, each against its bar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.simulation.model import Job, run
from bench.simulation.policies import POLICIES, Fair, Fifo
from bench.simulation.scenarios import SCENARIOS, Scenario
from services.scheduler.fair_queue.fairness import FairnessMonitor, jain_index, largest_gap


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_scenario_holds(scenario: Scenario) -> None:
    number = scenario.number(Fair)
    assert scenario.holds(number), f"{scenario.question}: {number:.3f}, wanted {scenario.bar}"


def test_every_scenario_tells_orders_apart() -> None:
    """A bar that first come, first served would pass proves nothing."""
    assert not [scenario.name for scenario in SCENARIOS if scenario.holds(scenario.number(Fifo))]


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
def test_every_order_runs_every_job_once_and_leaves_no_slot_idle(
    name: str, asks: list[tuple[int, str, int, int]], slots: int
) -> None:
    jobs = [
        Job(number=number, store=store, asked_at=at, cost=cost, seconds=seconds)
        for number, (at, store, cost, seconds) in enumerate(asks)
    ]
    served = run(POLICIES[name]({}), jobs, slots=slots)
    assert sorted(one.job.number for one in served) == list(range(len(jobs)))
    for one in served:
        for moment in (
            job.asked_at for job in jobs if one.job.asked_at <= job.asked_at < one.started_at
        ):
            running = [other for other in served if other.started_at <= moment < other.ended_at]
            assert len(running) == slots


def test_jains_index() -> None:
    assert jain_index([3, 3, 3]) == jain_index([]) == jain_index([0, 0]) == 1
    assert jain_index([1, 0, 0, 0]) == 0.25
    assert largest_gap([1, 5, 2]) == 4
    assert largest_gap([]) == 0


def test_a_window_judges_those_who_contended_all_the_time() -> None:
    watch = FairnessMonitor(seconds=10, now=0)
    for second in range(1, 11):
        waiting = {"heavy": ["heavy"], "team": ["one", "two"]} | (
            {"late": ["late"]} if second == 9 else {}
        )
        watch.served("heavy", "heavy", money_per_weight=3, wait_s=50)
        watch.served("one", "team", money_per_weight=1, wait_s=50)
        if second % 3 == 0:
            watch.served("late", "late", money_per_weight=9, wait_s=2)
            watch.ended(20)
        assert watch.last is None
        watch.look(waiting, second)
    assert watch.last is not None
    assert (watch.last.contenders, watch.last.seconds, watch.last.light_stores) == (2, 10, 1)
    assert watch.last.jain == jain_index([30, 10])
    assert watch.last.largest_gap == 20
    assert watch.last.light_slowdown == pytest.approx(22 / 20)
    watch.look({}, 20)
    assert (watch.last.contenders, watch.last.light_slowdown) == (0, None)
