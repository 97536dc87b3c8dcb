"""The image provider through its real SDK: failures become `Transient` or `Permanent`."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from services.generator.providers.replicate import (
    ReplicateImageProvider,
    close_client,
    create_client,
)
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Permanent, Transient
from tests.support.fake_providers import StandIns


@pytest.fixture
async def image_provider(standins: StandIns) -> AsyncIterator[ReplicateImageProvider]:
    limiter = ProviderLimiter(
        provider="replicate", model="a/b", limits={"requests": 60_000}, burst_s=2
    )
    limiter.assign_share((0,), 1, {})
    reads = ProviderLimiter(provider="replicate", model="a/b", limits={"reads": 60_000}, burst_s=2)
    reads.assign_share((0,), 1, {})
    client = create_client("r8-x", standins.replicate.url)
    async with httpx.AsyncClient() as http:
        yield ReplicateImageProvider(
            client, http, model="a/b", limiter=limiter, read_limiter=reads, timeout_s=3
        )
    await close_client(client)


async def test_image_is_created_once_and_fetched_again(
    image_provider: ReplicateImageProvider, standins: StandIns
) -> None:
    job = uuid4()
    prediction = await image_provider.create_prediction(job, "a tent at dawn")
    first = await image_provider.fetch_image(job, prediction)
    again = await image_provider.fetch_image(job, prediction)
    assert first is not None
    assert first.media_type == "image/png"
    assert first.content.startswith(b"\x89PNG\r\n\x1a\n")
    assert first == again
    assert standins.replicate.bill(job) == {"calls": 1, "tokens": 0, "steps": {"image": 1}}


async def test_sdk_does_not_repeat_a_failed_poll(
    image_provider: ReplicateImageProvider, standins: StandIns
) -> None:
    job = uuid4()
    standins.replicate.script({"kind": "503", "job": str(job), "step": "poll"})
    prediction = await image_provider.create_prediction(job, "a tent at dawn")
    with pytest.raises(Transient) as failed:
        await image_provider.fetch_image(job, prediction)
    assert (failed.value.code, failed.value.delay) == ("replicate-503", 1)
    assert await image_provider.fetch_image(job, prediction) is not None


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("429", Transient, "replicate-429"),
        ("500", Transient, "replicate-500"),
        ("402", Transient, "provider-unavailable"),
        ("401", Transient, "provider-unavailable"),
        ("404", Transient, "provider-unavailable"),
        ("failed", Permanent, "replicate-failed"),
        ("aborted", Permanent, "replicate-aborted"),
        ("stuck", Transient, "replicate-timeout"),
        ("cut", Transient, "replicate-unreachable"),
    ],
)
async def test_replicate_failure_becomes_error_code(
    image_provider: ReplicateImageProvider,
    standins: StandIns,
    kind: str,
    error: type[Exception],
    code: str,
) -> None:
    job = uuid4()
    standins.replicate.script({"kind": kind, "job": str(job)})
    with pytest.raises(error) as failed:
        await image_provider.fetch_image(job, await image_provider.create_prediction(job, "x"))
    assert getattr(failed.value, "code", None) == code


async def test_requested_delay_of_replicate_is_kept(
    image_provider: ReplicateImageProvider, standins: StandIns
) -> None:
    job = uuid4()
    standins.replicate.script({"kind": "429", "job": str(job), "retry_after": 9})
    with pytest.raises(Transient) as failed:
        await image_provider.create_prediction(job, "x")
    assert failed.value.delay == 9
