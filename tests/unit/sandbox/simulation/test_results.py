"""The histogram, the windows of fairness, the timeline and the picture."""

import random
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from sandbox.simulation.arrivals import Burst
from sandbox.simulation.results.histogram import DurationHistogram
from sandbox.simulation.results.plot import draw_report
from sandbox.simulation.results.report import format_duration, summarize_world
from sandbox.simulation.results.statistics import FairnessWindows
from sandbox.simulation.results.timeline import Sample, Timeline
from tests.support.simulated_worlds import make_settings, make_workload, run_world


def test_percentiles_are_exact_to_one_per_cent() -> None:
    rng, histogram = random.Random(1), DurationHistogram()
    values = sorted(rng.lognormvariate(2, 2) for _ in range(5_000))
    for value in values:
        histogram.add(value)
    found = histogram.percentiles((50, 95, 99, 100))
    assert found == [
        pytest.approx(values[int(len(values) * part) - 1], rel=0.01)
        for part in (0.5, 0.95, 0.99, 1)
    ]
    assert histogram.mean_s == pytest.approx(sum(values) / len(values))
    assert DurationHistogram().percentiles((50, 99)) == [None, None]


def test_zero_counts_as_a_duration() -> None:
    histogram = DurationHistogram()
    histogram.add(0.0)
    assert histogram.percentiles((50,)) == [0.0]


def test_window_compares_stores_that_always_waited() -> None:
    windows = FairnessWindows(60)
    for store in ("one", "two", "short"):
        for _ in range(30 if store != "short" else 1):
            windows.record_enqueue(store)
    windows.close_window()
    for _ in range(15):
        windows.record_dispatch("one", 300)
        windows.record_dispatch("two", 100)
    windows.record_dispatch("short", 9_000)
    windows.close_window()
    assert windows.indexes == [pytest.approx(0.8)], "400² ÷ (2 × (300² + 100²))"
    windows.record_dispatch("one", 300)
    windows.close_window()
    assert len(windows.indexes) == 1, "one job for two stores says nothing"


def test_timeline_keeps_few_samples_of_a_long_run() -> None:
    timeline = Timeline()
    for second in range(100_000):
        timeline.add(Sample(at=second, waiting=1, running=1, offered=1, done=second, charged={}))
    times = [sample.at for sample in timeline.samples]
    assert 200 < len(times) <= 600
    assert {later - earlier for earlier, later in pairwise(times)} == {256}


def test_picture_is_small_and_well_formed() -> None:
    burst = [Burst(at=5, stores=3, posts=40)]
    report = summarize_world(run_world(make_settings(rpm=120), make_workload(burst)))
    picture = draw_report(report)
    root = ElementTree.fromstring(picture)
    names = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"posts waiting and in progress", "posts done", "openai requests"} <= names
    assert len(picture) < 200_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.031, "0.03 s"), (12.34, "12.3 s"), (192, "3.2 min"), (18_360, "5.1 h")],
)
def test_durations_have_a_readable_unit(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text
