"""The capacity plan: workers, slots and the tightest limit of a load."""

import json

import pytest

from sandbox.capacity import BlogDemand, ProviderLimits, plan_capacity
from sandbox.cli.__main__ import main

LIMITS = ProviderLimits(openai_rpm=500, openai_tpm=200_000, replicate_rpm=600)
BLOG = BlogDemand(seconds=100, calls=2, tokens=5_000, images=1)


def test_one_worker_carries_20_to_40_blogs_per_minute() -> None:
    """Fifty blogs in progress, of 75 to 150 s each."""
    for seconds, blogs in ((75, 40), (150, 20)):
        plan = plan_capacity(
            blogs,
            LIMITS,
            BlogDemand(seconds=seconds, calls=2, tokens=5_000, images=1),
            concurrent=50,
        )
        assert (plan.slots, plan.workers, plan.limited_by) == (50, 1, "nothing")


@pytest.mark.parametrize(
    ("blog", "limit", "most"),
    [
        (BLOG, "OPENAI_TPM", 40),
        (BlogDemand(seconds=100, calls=50, tokens=5_000, images=1), "OPENAI_RPM", 10),
        (BlogDemand(seconds=100, calls=2, tokens=5, images=30), "REPLICATE_RPM", 20),
    ],
)
def test_tightest_limit_restricts_the_rate(blog: BlogDemand, limit: str, most: float) -> None:
    plan = plan_capacity(1_000, LIMITS, blog, concurrent=50)
    assert (plan.limited_by, plan.blogs_per_minute) == (limit, most)


def test_workers_never_exceed_partitions() -> None:
    plan = plan_capacity(
        40, LIMITS, BlogDemand(seconds=3_600, calls=2, tokens=5_000, images=0), concurrent=50
    )
    assert (plan.slots, plan.workers, plan.enough) == (2_400, 24, False)


def test_plan_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["capacity", "--blogs", "20", "--images", "0", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (ended.value.code, printed["workers"], printed["ceilings"]["REPLICATE_RPM"]) == (
        0,
        1,
        None,
    )
