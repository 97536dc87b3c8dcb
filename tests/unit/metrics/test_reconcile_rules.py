"""The comparison with PostgreSQL tells drift from delay."""

from services.metrics.reconcile.rules import Comparison, compare, hours_to_compare
from tests.support.metrics_events import NOW


def cohorts(**numbers: int) -> dict[str, dict[str, int]]:
    return {"5": numbers}


def compare_repeatedly(*readings: tuple[int, int, int], name: str = "DONE") -> Comparison:
    """Return the last of several comparisons.

    A reading is (counted before, truth, counted after).
    """
    found: Comparison | None = None
    for reading in readings:
        before, truth, after = (cohorts(**{name: number}) for number in reading)
        found = compare(before, truth, after, range(5, 6), NOW, found)
    assert found is not None
    return found


def find_drift(*readings: tuple[int, int, int], name: str = "DONE") -> tuple[int, int]:
    drift = compare_repeatedly(*readings, name=name).drift
    assert drift is not None
    return drift.jobs, drift.cost_nanousd


def test_delayed_events_are_no_drift() -> None:
    assert compare_repeatedly((7, 9, 9)).deviations == {}
    assert compare_repeatedly((7, 9, 8)).deviations == {(5, "DONE"): -1}
    assert compare_repeatedly((1, 1, 1), name="PROCESSING").deviations == {}
    assert find_drift((7, 9, 8), (9, 9, 9)) == (0, 0), "the event has arrived"
    assert find_drift((7, 9, 8), (8, 9, 8)) == (1, 0), "lost"
    assert find_drift((10, 9, 10), (10, 9, 10)) == (1, 0), "counted twice"
    assert find_drift((8, 9, 8), (10, 9, 10)) == (0, 0), "other events were delayed each time"
    assert find_drift((5, 9, 7), (5, 9, 7), name="cost") == (0, 2)


def test_first_comparison_finds_no_drift() -> None:
    assert compare_repeatedly((7, 9, 8)).drift is None
    assert compare_repeatedly((9, 9, 9)).drift is None


def test_job_in_wrong_status_counts_as_one_difference() -> None:
    ours, truth = cohorts(PENDING=1, PROCESSING=2, DONE=5), cohorts(DONE=8, FAILED=1)
    first = compare(ours, truth, ours, range(5, 6), NOW, None)
    drift = compare(ours, truth, ours, range(5, 6), NOW, first).drift
    assert drift is not None
    assert drift.jobs == 4, "three ends and one whole job are missing"


def test_hours_with_deleted_events_are_not_compared() -> None:
    now = 1_000 * 3_600 + 50.0
    assert hours_to_compare(None, now) == range(977, 1_001)
    assert hours_to_compare(998 * 3_600 + 1.0, now) == range(999, 1_001)
    assert len(hours_to_compare(now, now)) == 0
