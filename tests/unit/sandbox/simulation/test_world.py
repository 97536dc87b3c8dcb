"""The simulated world: it repeats itself, keeps its invariants, and ends every job."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sandbox.simulation.arrivals import Burst, SteadyLoad
from sandbox.simulation.invariants import InvariantError
from sandbox.simulation.results.report import format_report, summarize_world
from sandbox.simulation.settings import (
    Deploy,
    Latencies,
    Outage,
    WorkerDeaths,
    WorldSettings,
)
from sandbox.simulation.world import SimulatedWorld
from tests.support.simulated_worlds import SIZES, make_settings, make_workload, run_world

PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
"""A world takes too long to be shrunk."""
SLOW = Latencies(outline_s=30, article_s=30, image_s=1)
FLOOD = [Burst(at=10, stores=1, posts=60), Burst(at=11, stores=9, posts=4)]


@st.composite
def worlds(draw: st.DrawFn) -> WorldSettings:
    moments = st.floats(0, 120)
    workers = draw(st.integers(1, 4))
    return make_settings(
        workers=workers,
        slots=draw(st.integers(1, 8)),
        partitions=draw(st.sampled_from([workers, 5, 24])),
        rpm=draw(st.sampled_from([6, 60, 600])),
        tpm=draw(st.sampled_from([16_000, 200_000, 10_000_000])),
        image_rpm=draw(st.sampled_from([6, 60, 600])),
        cap=draw(st.integers(1, 5)),
        hard_cap=draw(st.booleans()),
        max_pending_per_store=draw(st.sampled_from([5, 1_000])),
        latencies=Latencies(
            outline_s=draw(st.floats(0.05, 20)),
            article_s=draw(st.floats(0.05, 60)),
            image_s=draw(st.floats(0.05, 30)),
        ),
        outages=tuple(
            Outage(provider=provider, at=at, seconds=seconds)
            for provider, at, seconds in draw(
                st.lists(
                    st.tuples(st.sampled_from(["openai", "replicate"]), moments, moments),
                    max_size=2,
                )
            )
        ),
        deaths=tuple(WorkerDeaths(at=at) for at in draw(st.lists(moments, max_size=2))),
        deploys=tuple(Deploy(at=at) for at in draw(st.lists(moments, max_size=1))),
        seed=draw(st.integers(0, 9)),
    )


@settings(max_examples=25, deadline=None, phases=PHASES)
@given(
    worlds(),
    st.lists(
        st.builds(Burst, at=st.floats(0, 100), stores=st.integers(1, 5), posts=st.integers(1, 12)),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_invariants_hold_at_every_event_and_every_job_ends(
    world_settings: WorldSettings, bursts: list[Burst], images: float
) -> None:
    steady = SteadyLoad(posts=5, per_minute=30, stores=3, images=images)
    world = run_world(world_settings, make_workload(bursts, steady))
    statistics = world.statistics
    assert statistics.done == statistics.arrived == world.workload.posts
    assert statistics.open == statistics.failed == world.refused_waiting == 0
    assert world.scheduler.queue.pending == 0
    assert world.spent == world.scheduler.charged + world.lost
    assert not any(account.rejected for account in world.providers.accounts.values())


def test_same_seed_repeats_the_run_exactly() -> None:
    first, second = (
        summarize_world(run_world(make_settings(workers=2), make_workload(FLOOD))) for _ in "12"
    )
    assert first == second
    other = summarize_world(run_world(make_settings(workers=2, seed=2), make_workload(FLOOD)))
    assert other != first


def test_limit_decides_the_makespan() -> None:
    """96 posts make 192 calls: 60 a minute serve them in 192 s, and 120 in half of that.

    With a high floor, nearly nothing of the saved minute is spent.
    """
    slow, quick = (
        summarize_world(
            run_world(make_settings(rpm=rpm, slots=20, account_floor=0.9), make_workload(FLOOD))
        )
        for rpm in (60, 120)
    )
    assert slow.binding == quick.binding == "openai requests"
    assert slow.makespan_s == pytest.approx(2 * quick.makespan_s, rel=0.1)


def test_fresh_account_spends_its_surplus() -> None:
    """At 60 a minute, 35 of 60 saved calls are above the level at rest: 35 s are saved."""
    low, high = (
        summarize_world(
            run_world(make_settings(rpm=60, slots=20, account_floor=floor), make_workload(FLOOD))
        )
        for floor in (0.25, 0.9)
    )
    assert low.makespan_s == pytest.approx(high.makespan_s - 35, abs=7)


def test_slots_decide_if_there_are_few() -> None:
    few = make_settings(rpm=60_000, slots=5, latencies=Latencies(outline_s=5, article_s=5))
    one, two = (
        summarize_world(run_world(replace(few, workers=workers), make_workload(FLOOD)))
        for workers in (1, 2)
    )
    assert one.binding == "slots"
    assert one.makespan_s == pytest.approx(2 * two.makespan_s, rel=0.15)


def test_death_delays_only_the_jobs_of_the_dead_worker() -> None:
    calm = make_settings(workers=3, slots=10, latencies=Latencies(outline_s=3, article_s=9))
    dying = replace(calm, deaths=(WorkerDeaths(at=20),))
    before, after = (
        summarize_world(run_world(world, make_workload(FLOOD))) for world in (calm, dying)
    )
    assert after.done == before.done == 96
    assert after.lost_usd > 0
    assert after.retries == 10
    assert after.makespan_s > before.makespan_s


def test_as_many_workers_start_as_were_killed() -> None:
    settings = make_settings(workers=2, deaths=(WorkerDeaths(at=12, count=9),))
    late = Burst(at=60, stores=1, posts=1)
    world = run_world(settings, make_workload([*FLOOD, late]))
    assert world.statistics.done == 97
    assert list(world.fleet.workers) == ["worker-000003", "worker-000004"]


def test_outage_stops_all_calls_and_costs_no_job() -> None:
    world = run_world(
        make_settings(outages=(Outage(provider="openai", at=15, seconds=60),)),
        make_workload(FLOOD),
    )
    report = summarize_world(world)
    assert (report.done, report.failed) == (96, 0)
    assert report.makespan_s > 65
    assert world.providers.accounts["openai"].failed < 40, "the circuit stops the calls"


def test_closed_intake_refuses_and_clients_come_again() -> None:
    """The intake closes when the scheduler has read the burst, so later requests are refused."""
    late = Burst(at=20, stores=1, posts=1)
    world = run_world(make_settings(rpm=60, max_pending_total=10), make_workload([*FLOOD, late]))
    report = summarize_world(world)
    assert report.refused > 0
    assert report.done == report.posts == 97


def test_checker_finds_money_that_nobody_pays() -> None:
    world = SimulatedWorld(make_settings(), make_workload(FLOOD), check=True)
    world.clock.schedule(12, lambda _: setattr(world, "spent", world.spent + 1))
    with pytest.raises(InvariantError, match=r"at 12\.000 s: .* nano-USD were billed"):
        world.run()


def test_checker_finds_a_job_that_runs_twice() -> None:
    world = SimulatedWorld(make_settings(workers=2), make_workload(FLOOD), check=True)

    def run_twice(_: object) -> None:
        first, second = world.fleet.all_workers()
        second.running.add(next(iter(first.running)))

    world.clock.schedule(12, run_twice)
    with pytest.raises(InvariantError, match="run twice"):
        world.run()


def test_checker_finds_more_than_one_account() -> None:
    world = SimulatedWorld(make_settings(workers=2), make_workload(FLOOD), check=True)

    def own_too_much(_: object) -> None:
        world.fleet.all_workers()[0].text.share = 0.9

    world.clock.schedule(12, own_too_much)
    with pytest.raises(InvariantError, match="of an account"):
        world.run()


def test_report_names_classes_limits_and_queue() -> None:
    text = format_report(summarize_world(run_world(make_settings(rpm=60), make_workload(FLOOD))))
    for words in ("burst at 10 s, 60 each", "openai requests", "96 of 96 posts done", "decides"):
        assert words in text
    assert "\nreplicate reads  " in text


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"partitions": 4}, "GENERATION_PARTITIONS do (openai requests let up to 600 carry"),
        ({"tpm": 4 * SIZES.largest_tokens}, "A higher limit of openai tokens"),
    ],
)
def test_partitions_bound_the_workers(changes: dict[str, Any], remedy: str) -> None:
    """Four partitions carry quota, so the fifth worker and all others get no jobs."""
    few = make_settings(**changes, slots=1, latencies=SLOW)
    reports = [
        summarize_world(run_world(replace(few, workers=workers), make_workload(FLOOD[1:])))
        for workers in (3, 4, 8)
    ]
    assert [report.binding for report in reports] == ["slots"] * 3
    assert [report.usable_slots for report in reports] == [3, 4, 4]
    below, full, above = map(format_report, reports)
    assert below.endswith("The slots decide: more workers make it faster.")
    for text in (full, above):
        assert "4 workers at most get jobs. More workers do not make it faster." in text
        assert remedy in text


def test_faults_are_named_only_if_there_are_some() -> None:
    outage = Outage(provider="openai", at=10, seconds=60)
    world = run_world(make_settings(slots=100, outages=(outage,)), make_workload(FLOOD))
    report = summarize_world(world)
    unknown = "Neither a limit nor the slots are used up while posts wait"
    assert format_report(report).endswith(f"{unknown}: look at the faults.")
    assert format_report(replace(report, has_faults=False)).endswith(f"{unknown}.")


def test_cut_off_simulation_says_how_many_posts_are_left() -> None:
    late = Burst(at=500, stores=2, posts=2)
    report = summarize_world(run_world(make_settings(until=11.5), make_workload([*FLOOD, late])))
    assert (report.posts, report.done, report.unfinished) == (100, 0, 100)
    text = format_report(report)
    assert "0 of 100 posts done in 11.5 s" in text
    assert "cut off at --hours (11.5 s): 100 posts are left." in text
    assert "hold anything up" not in text


def test_busy_stores_get_equal_money() -> None:
    busy = [Burst(at=1, stores=4, posts=100)]
    world = run_world(make_settings(rpm=600, workers=2), make_workload(busy), window_s=20)
    report = summarize_world(world)
    assert report.jain is not None
    assert report.jain_worst is not None
    assert report.jain_worst >= 0.99
