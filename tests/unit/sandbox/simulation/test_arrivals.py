"""Generated and recorded arrivals."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from sandbox.simulation.arrivals import (
    Arrival,
    Burst,
    SteadyLoad,
    generate_workload,
    read_arrivals,
)
from shared.domain.errors import Unavailable

STEADY = SteadyLoad(posts=4_000, per_minute=60, stores=50, zipf=1.0, images=0.25)


def write(folder: Path, text: str) -> Path:
    path = folder / "arrivals.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_steady_load_has_its_rate_its_inequality_and_its_images() -> None:
    workload = generate_workload(STEADY, [], random.Random(1))
    arrivals = list(workload.arrivals)
    assert len(arrivals) == workload.posts == 4_000
    assert all(earlier.at <= later.at for earlier, later in pairwise(arrivals))
    assert arrivals[-1].at == pytest.approx(4_000, rel=0.05)
    (_, first), (_, second) = Counter(arrival.store for arrival in arrivals).most_common(2)
    assert first == pytest.approx(2 * second, rel=0.15)
    assert sum(arrival.needs_image for arrival in arrivals) == pytest.approx(1_000, rel=0.1)
    assert [(one.name, one.stores) for one in workload.classes] == [
        ("largest 1 %", 1),
        ("next 9 %", 4),
        ("other stores", 45),
    ]
    assert {arrival.kind for arrival in arrivals if arrival.store == "store-0000004"} == {1}


def test_equal_stores_ask_equally_often() -> None:
    equal = SteadyLoad(posts=10_000, per_minute=60, stores=10, zipf=0)
    arrivals = generate_workload(equal, [], random.Random(1)).arrivals
    counts = Counter(arrival.store for arrival in arrivals)
    assert all(count == pytest.approx(1_000, rel=0.15) for count in counts.values())


def test_bursts_come_in_order_between_the_others() -> None:
    bursts = [Burst(at=30, stores=2, posts=3), Burst(at=10, stores=1, posts=2)]
    workload = generate_workload(STEADY, bursts, random.Random(1))
    arrivals = list(workload.arrivals)
    assert all(earlier.at <= later.at for earlier, later in pairwise(arrivals))
    assert workload.posts == len(arrivals) == 4_008
    assert [one.stores for one in workload.classes] == [1, 4, 45, 2, 1]
    assert Counter(arrival.store for arrival in arrivals if arrival.at == 30) == {
        "burst-0-0000000": 3,
        "burst-0-0000001": 3,
    }


def test_recorded_arrivals_are_read_with_all_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "at,store,posts,images,priority,class\n"
        "2026-11-27 08:00:10+00,a,2,,5,vip\n"
        "2026-11-27T08:00:00Z,b,,0,,\n",
    )
    workload = read_arrivals(path)
    assert workload.arrivals == [
        Arrival(0.0, "b", 1, needs_image=False),
        Arrival(10.0, "a", 0, priority=5),
        Arrival(10.0, "a", 0, priority=5),
    ]
    assert [(one.name, one.stores) for one in workload.classes] == [("vip", 1), ("other stores", 1)]


def test_recorded_stores_are_classed_by_their_posts(tmp_path: Path) -> None:
    rows = "".join(f"{number},s{number % 20 if number < 100 else 7}\n" for number in range(200))
    workload = read_arrivals(write(tmp_path, "at,store\n" + rows))
    kinds = {arrival.store: workload.classes[arrival.kind].name for arrival in workload.arrivals}
    assert kinds["s7"] == "largest 1 %"
    assert Counter(kinds.values()) == {"largest 1 %": 1, "next 9 %": 1, "other stores": 18}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column at and no column store"),
        ("when,store\n1,a\n", "has no column at"),
        ("at,store\n", "has no arrivals"),
        ("at,store\n1,a\nsoon,b\n", "line 3: at is 'soon', not a time like"),
        ("at,store\nnan,a\n", "line 2: at is 'nan'"),
        ("at,store\n2026-11-27T10:00:00Z,a\n30,b\n", "line 3: at is '30', but .* have times"),
        ("at,store\n1,a\n2,a\n2026-11-27,b\n", "line 4: at is '2026-11-27', but .* have seconds"),
        ("at,store\n1,\n", "line 2: store is empty"),
        ("at,store\n1\n", "line 2: store is empty"),
        ("at,store,posts\n1,a,0\n", "line 2: posts is '0', not a whole number above 0"),
        ("at,store,posts\n1,a,two\n", "line 2: posts is 'two'"),
        ("at,store,images\n1,a,maybe\n", "line 2: images is 'maybe', not 0 or 1"),
        ("at,store,priority\n1,a,high\n", "line 2: priority is 'high', not a whole number"),
    ],
)
def test_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(Unavailable, match=problem):
        read_arrivals(write(tmp_path, text))


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        read_arrivals(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Unavailable, match="cannot be read"):
        read_arrivals(tmp_path / "binary.csv")
