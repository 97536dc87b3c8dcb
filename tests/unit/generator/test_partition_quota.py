"""A worker's quota: the sum over the carrying partitions that it owns, and its checkpoints."""

import asyncio
import time
from typing import Any, cast
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest

from services.generator.quota.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from services.generator.quota.partition_quota import PartitionQuota
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Transient
from shared.domain.messages import Need
from shared.domain.quota_layout import QuotaLayout

LARGEST = 8_000.0
SMALL = QuotaLayout(partitions=24, calls={"openai/requests": 3, "openai/tokens": 5, "images/n": 24})
"""The first partitions of the order are 0, 12 and 6."""


def create_quota(owner: str = "w") -> tuple[PartitionQuota, ProviderLimiter, ProviderLimiter]:
    """Create the quota of a text account with three requests a minute, and of a large one."""
    texts = ProviderLimiter(
        provider="openai",
        model="m",
        limits={"requests": 3, "tokens": 40_000},
        largest_call={"tokens": LARGEST},
        burst_s=1.5,
    )
    images = ProviderLimiter(
        provider="images", model="m", limits={"n": 240}, burst_s=1.5, serves=Need.IMAGES
    )
    calls = cast(Any, AsyncMock(spent_since=AsyncMock(return_value={})))
    quota = PartitionQuota(
        owner=owner, limiters=[texts, images], calls=calls, burst_s=1.5, skew_s=1
    )
    return quota, texts, images


async def test_worker_owns_the_share_of_its_carrying_partitions() -> None:
    quota, texts, images = create_quota()
    await quota.restore_from_checkpoints(range(12), {}, SMALL)
    requests, tokens = texts.build_reports()
    assert requests.partitions == tokens.partitions == (0, 6)
    assert (requests.carrying, requests.serves) == (3, Need.TEXT)
    assert requests.share == pytest.approx(2 / 3 * 3 * 57.5 / 60)
    (image,) = images.build_reports()
    assert image.partitions == tuple(range(12))
    assert (image.share, image.carrying) == (120, 24)


async def test_permits_name_carrying_partitions() -> None:
    quota, texts, images = create_quota()
    await quota.restore_from_checkpoints(
        range(12), {}, QuotaLayout(partitions=24, calls={"images/n": 2})
    )
    images._rules._buckets["n"].level = 3
    permits = [await images.acquire({"n": 1}, uuid4()) for _ in range(3)]
    assert {permit.partition for permit in permits} == {0}
    assert texts.build_reports()[0].carrying == 24


async def test_worker_without_carrying_partition_returns_its_jobs() -> None:
    quota, texts, images = create_quota()
    await quota.restore_from_checkpoints(range(12), {}, SMALL)
    waiting = asyncio.create_task(texts.acquire({"requests": 1, "tokens": 5}, uuid4()))
    await asyncio.sleep(0)
    await quota.restore_from_checkpoints(range(18, 24), {}, SMALL)
    with pytest.raises(Transient, match="carries quota") as lost:
        await waiting
    assert (lost.value.code, lost.value.blameless) == ("no-share", True)
    with pytest.raises(Transient, match="carries quota"):
        await texts.acquire({"requests": 1, "tokens": 5}, uuid4())
    assert images.build_reports()[0].partitions == tuple(range(18, 24))
    saved = decode_checkpoint(quota.build_checkpoint())
    assert saved is not None
    assert set(saved.levels) == {"images/n"}


async def test_checkpoint_divides_the_level_over_carrying_partitions() -> None:
    quota, texts, _ = create_quota()
    await quota.restore_from_checkpoints(range(12), {}, SMALL)
    texts._rules._buckets["tokens"].level = -6_000
    saved = decode_checkpoint(quota.build_checkpoint())
    assert saved is not None
    assert saved.levels["openai/tokens"] == pytest.approx(-3_000, abs=100)
    assert saved.has_layout("openai/tokens", 24, 3)
    assert saved.has_layout("images/n", 24, 24)


async def test_next_owners_continue_with_the_debt_of_their_partitions() -> None:
    quota, texts, _ = create_quota()
    await quota.restore_from_checkpoints(range(24), {}, SMALL)
    texts._rules._buckets["tokens"].level = -9_000
    text = quota.build_checkpoint()
    levels = []
    for owned in (range(8), range(8, 24)):
        next_quota, next_texts, _ = create_quota("next")
        await next_quota.restore_from_checkpoints(owned, dict.fromkeys(range(24), text), SMALL)
        levels.append(next_texts.levels()["tokens"])
    assert levels == [pytest.approx(-6_000, abs=200), pytest.approx(-3_000, abs=200)]


async def test_another_layout_starts_with_a_minute_of_debt() -> None:
    """Also for the owner of partitions that are new, or did not carry quota."""
    former = encode_checkpoint(
        Checkpoint(owner="w", at=time.time(), levels={"openai/tokens": 100.0, "images/n": 1.0})
    )
    quota, texts, images = create_quota()
    await quota.restore_from_checkpoints([12], {3: former}, SMALL)
    rate = 40_000 / 60 / 3 * 57.5 / 60
    assert texts.levels()["tokens"] == pytest.approx(-61 * rate, rel=0.01)
    assert images.levels()["n"] == pytest.approx(0, abs=0.1), "its layout is the same"
    saved = decode_checkpoint(quota.build_checkpoint())
    assert saved is not None
    other, other_texts, _ = create_quota("other")
    await other.restore_from_checkpoints([0], {12: quota.build_checkpoint()}, SMALL)
    assert other_texts.levels()["tokens"] == pytest.approx(-61 * rate, rel=0.01)


async def test_limits_carry_calls_of_the_largest_size() -> None:
    quota, _, _ = create_quota()
    assert quota.carried_calls() == {"openai/requests": 3, "openai/tokens": 5, "images/n": 240}
