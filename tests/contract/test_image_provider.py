"""The image provider and the stand-in: the same protocol, and the stand-in's faults."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from services.generator.providers.accounts.account import ImageAccount
from services.generator.providers.accounts.prices import Prices
from services.generator.providers.replicate.http import close_client, create_client
from services.generator.providers.replicate.prediction import Prediction
from services.generator.providers.replicate.provider import ReplicateImageProvider
from services.generator.providers.replicate.reads import UnusablePrediction
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Transient
from tests.support.fake_providers import StandIns

ACCOUNT = ImageAccount(
    name="replicate",
    token=SecretStr("r8-x"),
    model="a/b",
    requests=60_000,
    reads=60_000,
    prices=Prices(input_usd=0.15, output_usd=0.60, image_usd=0.003),
    timeout_s=8,
)


@pytest.fixture
async def image_provider(standins: StandIns) -> AsyncIterator[ReplicateImageProvider]:
    account = replace(ACCOUNT, base_url=standins.replicate.url)
    limiter = ProviderLimiter(
        provider="replicate", model="a/b", limits={"requests": 60_000}, burst_s=2
    )
    limiter.assign_share((0,), 1, {})
    reads = ProviderLimiter(provider="replicate", model="a/b", limits={"reads": 60_000}, burst_s=2)
    reads.assign_share((0,), 1, {})
    client = create_client(account)
    async with httpx.AsyncClient() as http:
        yield ReplicateImageProvider(client, http, account, limiter=limiter, read_limiter=reads)
    await close_client(client)


async def test_image_is_created_once_and_fetched_again(
    image_provider: ReplicateImageProvider, standins: StandIns
) -> None:
    job = uuid4()
    prediction = await image_provider.create_prediction(job, "a tent at dawn")
    first = await image_provider.fetch_image(job, prediction)
    again = await image_provider.fetch_image(job, Prediction(id=prediction.id, age_s=1))
    assert first.media_type == "image/png"
    assert first.content.startswith(b"\x89PNG\r\n\x1a\n")
    assert first == again
    assert standins.replicate.bill(job) == {"calls": 1, "tokens": 0, "steps": {"image": 1}}


@pytest.mark.parametrize(
    ("kind", "code", "in_doubt"),
    [
        ("429", "replicate-429", False),
        ("500", "replicate-5xx", False),
        ("402", "replicate-402", False),
        ("401", "replicate-401", False),
        ("404", "replicate-404", False),
        ("cut", "replicate-lost", True),
    ],
)
async def test_failed_creation_becomes_error_code(
    image_provider: ReplicateImageProvider,
    standins: StandIns,
    kind: str,
    code: str,
    in_doubt: bool,
) -> None:
    job = uuid4()
    standins.replicate.script({"kind": kind, "job": str(job)})
    with pytest.raises(Transient) as failed:
        await image_provider.create_prediction(job, "x")
    error = failed.value
    assert (error.code, error.blameless, error.in_doubt) == (code, True, in_doubt)


@pytest.mark.parametrize(
    ("kind", "code", "images"),
    [
        ("failed", "replicate-failed", 0),
        ("aborted", "replicate-aborted", 0),
        ("stuck", "replicate-overdue", 1),
    ],
)
async def test_ended_prediction_becomes_error_code(
    image_provider: ReplicateImageProvider,
    standins: StandIns,
    kind: str,
    code: str,
    images: int,
) -> None:
    job = uuid4()
    standins.replicate.script({"kind": kind, "job": str(job)})
    prediction = await image_provider.create_prediction(job, "x")
    with pytest.raises(UnusablePrediction) as ended:
        await image_provider.fetch_image(job, prediction)
    assert (ended.value.outcome.code, ended.value.usage.images) == (code, images)
    assert read_status(standins, prediction) not in ("starting", "processing"), (
        "a stuck prediction is cancelled"
    )


def read_status(standins: StandIns, prediction: Prediction) -> Any:
    return httpx.get(f"{standins.replicate.url}/v1/predictions/{prediction.id}").json()["status"]


async def test_requested_delay_of_replicate_is_kept(
    image_provider: ReplicateImageProvider, standins: StandIns
) -> None:
    job = uuid4()
    standins.replicate.script({"kind": "429", "job": str(job), "retry_after": 9})
    with pytest.raises(Transient) as failed:
        await image_provider.create_prediction(job, "x")
    assert failed.value.delay == pytest.approx(9, abs=0.5)
