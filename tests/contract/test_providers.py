"""Both providers through their real SDKs: each failure becomes `Transient` or `Permanent`."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from openai import AsyncOpenAI

from services.generator.blog.article import Outline
from services.generator.providers.openai import OpenAITextProvider, TextCall, UnusableAnswer
from services.generator.providers.prices import Prices
from services.generator.providers.replicate import (
    ReplicateImageProvider,
    close_client,
    create_client,
)
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Permanent, Transient
from shared.domain.messages import Usage
from tests.support.fake_providers import StandIns

PRICES = Prices(input_usd=0.15, output_usd=0.60, image_usd=0.003)


@pytest.fixture
async def text_provider(standins: StandIns) -> AsyncIterator[OpenAITextProvider]:
    limiter = ProviderLimiter(
        provider="openai", model="m", limits={"requests": 60_000, "tokens": 10_000_000}, burst_s=2
    )
    limiter.assign_share((0,), 1, {})
    url = f"{standins.openai.url}/v1"
    async with AsyncOpenAI(api_key="sk-x", base_url=url, max_retries=0, timeout=1) as client:
        yield OpenAITextProvider(client, model="m", limiter=limiter, prices=PRICES)


def make_call(job: UUID) -> TextCall:
    return TextCall(
        job=job, step="outline", instructions="Plan.", data='{"title": "Tea"}', max_tokens=700
    )


async def write_outline(text_provider: OpenAITextProvider, job: UUID) -> tuple[Outline, Usage]:
    return await text_provider.write_text(
        make_call(job), Outline, await text_provider.acquire_permit(make_call(job), Outline)
    )


async def test_text_is_written_and_billed(
    text_provider: OpenAITextProvider, standins: StandIns
) -> None:
    job = uuid4()
    outline, usage = await write_outline(text_provider, job)
    assert "Tea" in outline.title
    assert usage.input_tokens + usage.output_tokens == standins.openai.bill(job)["tokens"]
    assert usage.cost_nanousd == usage.input_tokens * 150 + usage.output_tokens * 600
    assert standins.openai.bill(job)["steps"] == {"outline": 1}


async def test_usage_above_reservation_is_charged(standins: StandIns) -> None:
    limiter = ProviderLimiter(
        provider="openai", model="m", limits={"requests": 6_000, "tokens": 1e7}, burst_s=2
    )
    limiter.assign_share((0,), 1, {})
    async with AsyncOpenAI(
        api_key="sk-x", base_url=f"{standins.openai.url}/v1", max_retries=0
    ) as client:
        text_provider = OpenAITextProvider(client, model="m", limiter=limiter, prices=PRICES)
        short = make_call(uuid4())
        permit = await text_provider.acquire_permit(short, Outline)
        (tokens,) = (state for state in limiter.build_reports() if state.resource == "tokens")
        _, usage = await text_provider.write_text(
            replace(short, instructions="Plan. " * 9_000), Outline, permit
        )
        (after,) = (state for state in limiter.build_reports() if state.resource == "tokens")
    assert tokens.used < usage.input_tokens
    assert after.used == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize(
    ("fault", "error", "code", "delay"),
    [
        ({"kind": "429", "retry_after": 7}, Transient, "openai-429", 7.0),
        ({"kind": "500"}, Transient, "openai-500", None),
        ({"kind": "503", "retry_after": 2}, Transient, "openai-503", 2.0),
        (
            {"kind": "insufficient_quota"},
            Transient,
            "provider-unavailable",
            pytest.approx(60, abs=1),
        ),
        ({"kind": "401"}, Transient, "provider-unavailable", pytest.approx(60, abs=1)),
        ({"kind": "403"}, Transient, "provider-unavailable", pytest.approx(60, abs=1)),
        ({"kind": "404"}, Transient, "provider-unavailable", pytest.approx(60, abs=1)),
        ({"kind": "timeout", "seconds": 5}, Transient, "openai-unreachable", None),
        ({"kind": "cut"}, Transient, "openai-unreachable", None),
        ({"kind": "malformed"}, Transient, "openai-unreadable", None),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else None,
)
async def test_openai_failure_becomes_transient_error(
    text_provider: OpenAITextProvider,
    standins: StandIns,
    fault: dict[str, Any],
    error: type[Exception],
    code: str,
    delay: float | None,
) -> None:
    job = uuid4()
    standins.openai.script(fault | {"job": str(job)})
    with pytest.raises(error) as failed:
        await write_outline(text_provider, job)
    assert getattr(failed.value, "code", None) == code
    assert getattr(failed.value, "delay", None) == delay
    assert standins.openai.bill(job)["calls"] == 0


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("truncated", Transient, "openai-incomplete"),
        ("refusal", Permanent, "refused"),
        ("schema", Transient, "openai-schema"),
    ],
)
async def test_unusable_answer_is_billed(
    text_provider: OpenAITextProvider,
    standins: StandIns,
    kind: str,
    error: type[Transient | Permanent],
    code: str,
) -> None:
    job = uuid4()
    standins.openai.script({"kind": kind, "job": str(job)})
    with pytest.raises(UnusableAnswer) as failed:
        await write_outline(text_provider, job)
    assert isinstance(failed.value.cause, error)
    assert failed.value.cause.code == code
    bill = standins.openai.bill(job)
    assert failed.value.usage.input_tokens + failed.value.usage.output_tokens == bill["tokens"] > 0


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


async def test_account_without_money_stops_further_calls(
    text_provider: OpenAITextProvider, standins: StandIns
) -> None:
    job = uuid4()
    standins.openai.script({"kind": "insufficient_quota", "job": str(job)})
    with pytest.raises(Transient) as first:
        await write_outline(text_provider, job)
    with pytest.raises(Transient, match="no money left") as second:
        await write_outline(text_provider, job)
    assert first.value.blameless
    assert second.value.blameless
    assert standins.openai.bill(job)["calls"] == 0


async def test_call_that_never_connected_is_not_in_doubt(standins: StandIns) -> None:
    limiter = ProviderLimiter(
        provider="openai", model="m", limits={"requests": 6_000, "tokens": 1e7}, burst_s=2
    )
    limiter.assign_share((0,), 1, {})
    async with AsyncOpenAI(
        api_key="sk-x", base_url="http://127.0.0.1:9/v1", max_retries=0, timeout=1
    ) as client:
        unreachable = OpenAITextProvider(client, model="m", limiter=limiter, prices=PRICES)
        with pytest.raises(Transient, match="could not be reached") as failed:
            await write_outline(unreachable, uuid4())
    assert not failed.value.in_doubt


async def test_requested_delay_of_replicate_is_kept(
    image_provider: ReplicateImageProvider, standins: StandIns
) -> None:
    job = uuid4()
    standins.replicate.script({"kind": "429", "job": str(job), "retry_after": 9})
    with pytest.raises(Transient) as failed:
        await image_provider.create_prediction(job, "x")
    assert failed.value.delay == 9
