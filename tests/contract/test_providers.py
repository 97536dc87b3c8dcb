"""Our side of both vendors, through their real SDKs: every way to fail becomes one of our words."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from openai import AsyncOpenAI

from services.generator.blog.article import Outline
from services.generator.providers.openai import TextCall, OpenAITextProvider, UnusableAnswer
from services.generator.providers.prices import Prices
from services.generator.providers.replicate import ReplicateImageProvider, create_client, close_client
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Permanent, Transient
from shared.domain.messages import Usage
from tests.support.fake_providers import StandIns

PRICES = Prices(input_usd=0.15, output_usd=0.60, image_usd=0.003)


@pytest.fixture
async def writer(standins: StandIns) -> AsyncIterator[OpenAITextProvider]:
    limiter = ProviderLimiter(
        provider="openai", model="m", limits={"requests": 60_000, "tokens": 10_000_000}, burst_s=2
    )
    limiter.assign_share((0,), 1, {})
    url = f"{standins.openai.url}/v1"
    async with AsyncOpenAI(api_key="sk-x", base_url=url, max_retries=0, timeout=1) as client:
        yield OpenAITextProvider(client, model="m", limiter=limiter, prices=PRICES)


def call(job: UUID) -> TextCall:
    return TextCall(
        job=job, step="outline", instructions="Plan.", data='{"title": "Tea"}', max_tokens=700
    )


async def write(writer: OpenAITextProvider, job: UUID) -> tuple[Outline, Usage]:
    return await writer.write_text(call(job), Outline, await writer.acquire_permit(call(job), Outline))


async def test_a_text_is_written_and_billed(writer: OpenAITextProvider, standins: StandIns) -> None:
    job = uuid4()
    outline, usage = await write(writer, job)
    assert "Tea" in outline.title
    assert usage.input_tokens + usage.output_tokens == standins.openai.bill(job)["tokens"]
    assert usage.cost_nanousd == usage.input_tokens * 150 + usage.output_tokens * 600
    assert standins.openai.bill(job)["steps"] == {"outline": 1}


async def test_what_a_call_has_used_beyond_what_was_reserved_is_spent(standins: StandIns) -> None:
    limiter = ProviderLimiter(
        provider="openai", model="m", limits={"requests": 6_000, "tokens": 1e7}, burst_s=2
    )
    limiter.assign_share((0,), 1, {})
    async with AsyncOpenAI(
        api_key="sk-x", base_url=f"{standins.openai.url}/v1", max_retries=0
    ) as client:
        writer = OpenAITextProvider(client, model="m", limiter=limiter, prices=PRICES)
        short = call(uuid4())
        grant = await writer.acquire_permit(short, Outline)
        (tokens,) = (state for state in limiter.build_reports() if state.resource == "tokens")
        _, usage = await writer.write_text(replace(short, instructions="Plan. " * 9_000), Outline, grant)
        (after,) = (state for state in limiter.build_reports() if state.resource == "tokens")
    assert tokens.used < usage.input_tokens
    assert after.used == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize(
    ("fault", "word", "code", "delay"),
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
async def test_openais_failures_in_our_words(
    writer: OpenAITextProvider,
    standins: StandIns,
    fault: dict[str, Any],
    word: type[Exception],
    code: str,
    delay: float | None,
) -> None:
    job = uuid4()
    standins.openai.script(fault | {"job": str(job)})
    with pytest.raises(word) as failed:
        await write(writer, job)
    assert getattr(failed.value, "code", None) == code
    assert getattr(failed.value, "delay", None) == delay
    assert standins.openai.bill(job)["calls"] == 0


@pytest.mark.parametrize(
    ("kind", "word", "code"),
    [
        ("truncated", Transient, "openai-incomplete"),
        ("refusal", Permanent, "refused"),
        ("schema", Transient, "openai-schema"),
    ],
)
async def test_an_answer_that_cannot_be_used_is_billed_all_the_same(
    writer: OpenAITextProvider,
    standins: StandIns,
    kind: str,
    word: type[Transient | Permanent],
    code: str,
) -> None:
    job = uuid4()
    standins.openai.script({"kind": kind, "job": str(job)})
    with pytest.raises(UnusableAnswer) as failed:
        await write(writer, job)
    assert isinstance(failed.value.cause, word)
    assert failed.value.cause.code == code
    bill = standins.openai.bill(job)
    assert failed.value.usage.input_tokens + failed.value.usage.output_tokens == bill["tokens"] > 0


@pytest.fixture
async def painter(standins: StandIns) -> AsyncIterator[ReplicateImageProvider]:
    limiter = ProviderLimiter(
        provider="replicate", model="a/b", limits={"requests": 60_000}, burst_s=2
    )
    limiter.assign_share((0,), 1, {})
    reads = ProviderLimiter(provider="replicate", model="a/b", limits={"reads": 60_000}, burst_s=2)
    reads.assign_share((0,), 1, {})
    client = create_client("r8-x", standins.replicate.url)
    async with httpx.AsyncClient() as http:
        yield ReplicateImageProvider(client, http, model="a/b", limiter=limiter, reads=reads, timeout_s=3)
    await close_client(client)


async def test_an_image_is_painted_once_and_can_be_taken_up_again(
    painter: ReplicateImageProvider, standins: StandIns
) -> None:
    job = uuid4()
    prediction = await painter.create_prediction(job, "a tent at dawn")
    first = await painter.fetch_image(job, prediction)
    again = await painter.fetch_image(job, prediction)
    assert first is not None
    assert first.media_type == "image/png"
    assert first.content.startswith(b"\x89PNG\r\n\x1a\n")
    assert first == again
    assert standins.replicate.bill(job) == {"calls": 1, "tokens": 0, "steps": {"image": 1}}


async def test_a_poll_that_fails_is_not_repeated_behind_our_back(
    painter: ReplicateImageProvider, standins: StandIns
) -> None:
    job = uuid4()
    standins.replicate.script({"kind": "503", "job": str(job), "step": "poll"})
    prediction = await painter.create_prediction(job, "a tent at dawn")
    with pytest.raises(Transient) as failed:
        await painter.fetch_image(job, prediction)
    assert (failed.value.code, failed.value.delay) == ("replicate-503", 1)
    assert await painter.fetch_image(job, prediction) is not None


@pytest.mark.parametrize(
    ("kind", "word", "code"),
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
async def test_replicates_failures_in_our_words(
    painter: ReplicateImageProvider, standins: StandIns, kind: str, word: type[Exception], code: str
) -> None:
    job = uuid4()
    standins.replicate.script({"kind": kind, "job": str(job)})
    with pytest.raises(word) as failed:
        await painter.fetch_image(job, await painter.create_prediction(job, "x"))
    assert getattr(failed.value, "code", None) == code


async def test_when_the_account_has_no_money_nobody_asks_again(
    writer: OpenAITextProvider, standins: StandIns
) -> None:
    job = uuid4()
    standins.openai.script({"kind": "insufficient_quota", "job": str(job)})
    with pytest.raises(Transient) as first:
        await write(writer, job)
    with pytest.raises(Transient, match="no money left") as second:
        await write(writer, job)
    assert first.value.blameless
    assert second.value.blameless
    assert standins.openai.bill(job)["calls"] == 0


async def test_a_call_that_never_connected_is_not_in_doubt(standins: StandIns) -> None:
    limiter = ProviderLimiter(
        provider="openai", model="m", limits={"requests": 6_000, "tokens": 1e7}, burst_s=2
    )
    limiter.assign_share((0,), 1, {})
    async with AsyncOpenAI(
        api_key="sk-x", base_url="http://127.0.0.1:9/v1", max_retries=0, timeout=1
    ) as client:
        nobody_there = OpenAITextProvider(client, model="m", limiter=limiter, prices=PRICES)
        with pytest.raises(Transient, match="could not be reached") as failed:
            await write(nobody_there, uuid4())
    assert not failed.value.in_doubt


async def test_replicates_own_delay_is_kept(painter: ReplicateImageProvider, standins: StandIns) -> None:
    job = uuid4()
    standins.replicate.script({"kind": "429", "job": str(job), "retry_after": 9})
    with pytest.raises(Transient) as failed:
        await painter.create_prediction(job, "x")
    assert failed.value.delay == 9
