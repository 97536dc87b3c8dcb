"""The capacity plan: workers, slots and the tightest limit of a load."""

import json

import pytest

from sandbox.capacity import (
    STANDIN_BLOG,
    USUAL_BLOG,
    BlogDemand,
    ProviderLimits,
    estimate_run,
    plan_capacity,
)
from sandbox.cli.__main__ import main
from sandbox.limits import limits_of
from services.generator.blog.prompts import largest_call_tokens
from services.generator.providers.accounts.account import accounts_from_settings
from services.generator.providers.accounts.provider_set import check_quota
from services.generator.settings import GeneratorSettings
from shared.domain.errors import Unavailable
from tests.support.text_accounts import make_text_account

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
            partitions=24,
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
    plan = plan_capacity(1_000, LIMITS, blog, concurrent=50, partitions=24)
    assert (plan.limited_by, plan.blogs_per_minute) == (limit, most)


def test_workers_never_exceed_partitions() -> None:
    plan = plan_capacity(
        40,
        LIMITS,
        BlogDemand(seconds=3_600, calls=2, tokens=5_000, images=0),
        concurrent=50,
        partitions=24,
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


SMALL = ProviderLimits(
    openai_rpm=3,
    openai_tpm=40_000,
    replicate_rpm=6,
    largest_call_tokens=largest_call_tokens(make_text_account()),
)


def test_small_account_is_carried_by_few_partitions() -> None:
    plan = plan_capacity(1, SMALL, USUAL_BLOG, concurrent=50, partitions=24)
    assert (plan.text_partitions, plan.image_partitions, plan.too_small) == (3, 6, ())
    assert (plan.workers, plan.enough) == (1, True)
    slow = BlogDemand(seconds=1_000, calls=2, tokens=5_500, images=1)
    many = plan_capacity(1, SMALL, slow, concurrent=1, partitions=24)
    assert (many.workers, many.enough) == (3, False), "a fourth worker would get no job"


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("openai_rpm", 0.5),
        ("openai_tpm", largest_call_tokens(make_text_account()) - 1.0),
        ("replicate_rpm", 0.9),
        ("replicate_read_rpm", 0.9),
    ],
)
def test_capacity_and_start_refuse_the_same_accounts(
    name: str, limit: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GeneratorSettings(
        kafka_bootstrap_servers="127.0.0.1:1",
        database_url="x",
        openai_api_key="x",
        replicate_api_token="x",
    )
    check_quota(accounts_from_settings(settings))
    enough = settings.model_copy(update={name: limit * 1.2 + 1})
    check_quota(accounts_from_settings(enough))
    with pytest.raises(Unavailable, match=f"{name.upper()} is {limit:g}"):
        check_quota(accounts_from_settings(settings.model_copy(update={name: limit})))
    monkeypatch.setenv(name.upper(), str(limit))
    with pytest.raises(SystemExit) as ended:
        main(["capacity", "--blogs", "0.01"])
    assert ended.value.code == 1
    assert f"{name.upper()} cannot carry one call" in capsys.readouterr().out


def test_estimate_follows_the_tightest_limit() -> None:
    assert estimate_run(30, SMALL, STANDIN_BLOG) == (1210, "OPENAI_RPM")
    assert estimate_run(60, LIMITS, BLOG) == (190, "OPENAI_TPM")


def test_limits_come_from_the_home_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_RPM", "7")
    monkeypatch.setenv("REPLICATE_RPM", "8")
    found = limits_of({"OPENAI_RPM": "3"})
    assert (found.openai_rpm, found.openai_tpm, found.replicate_rpm) == (3, 200_000, 8)
