"""How many workers a load needs."""

import json

import pytest

from sandbox.capacity import ProviderLimits, BlogDemand, plan_capacity
from sandbox.cli.__main__ import main

ACCOUNT = ProviderLimits(openai_rpm=500, openai_tpm=200_000, replicate_rpm=600)
BLOG = BlogDemand(seconds=100, calls=2, tokens=5_000, images=1)


def test_the_contracts_numbers() -> None:
    """50 blogs at once of 75 to 150 s are 20 to 40 a minute and worker."""
    for seconds, blogs in ((75, 40), (150, 20)):
        made = plan_capacity(
            blogs, ACCOUNT, BlogDemand(seconds=seconds, calls=2, tokens=5_000, images=1), concurrent=50
        )
        assert (made.slots, made.workers, made.limited_by) == (50, 1, "nothing")


@pytest.mark.parametrize(
    ("blog", "limit", "most"),
    [
        (BLOG, "OPENAI_TPM", 40),
        (BlogDemand(seconds=100, calls=50, tokens=5_000, images=1), "OPENAI_RPM", 10),
        (BlogDemand(seconds=100, calls=2, tokens=5, images=30), "REPLICATE_RPM", 20),
    ],
)
def test_the_tightest_limit_ends_it(blog: BlogDemand, limit: str, most: float) -> None:
    made = plan_capacity(1_000, ACCOUNT, blog, concurrent=50)
    assert (made.limited_by, made.blogs_per_minute) == (limit, most)


def test_there_are_never_more_workers_than_partitions() -> None:
    made = plan_capacity(40, ACCOUNT, BlogDemand(seconds=3_600, calls=2, tokens=5_000, images=0), concurrent=50)
    assert (made.slots, made.workers, made.enough) == (2_400, 24, False)


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["capacity", "--blogs", "20", "--images", "0", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (ended.value.code, told["workers"], told["ceilings"]["REPLICATE_RPM"]) == (0, 1, None)
