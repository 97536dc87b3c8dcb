"""The text provider through the real SDK, against servers that answer as those in the field do."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.generator.blog.article import Outline
from services.generator.providers.accounts.account import TextAccount
from services.generator.providers.openai.client import create_text_client
from services.generator.providers.openai.provider import (
    BilledFailure,
    OpenAITextProvider,
    TextCall,
    UnsupportedFeature,
    UnusableAnswer,
)
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Permanent, Transient
from shared.domain.messages import Usage
from tests.support.text_accounts import make_text_account, make_text_limiter
from tests.support.text_answers import (
    OUTLINE,
    OUTLINE_JSON,
    chat_answer,
    error_body,
    response_answer,
)
from tests.support.text_server import Answer, Call, Script, TextServer, run_text_server


class Opened:
    """A provider, its limiter and the server that it calls."""

    def __init__(
        self, provider: OpenAITextProvider, limiter: ProviderLimiter, server: TextServer
    ) -> None:
        self.provider = provider
        self.limiter = limiter
        self.server = server

    async def write_outline(self, job: UUID | None = None, **changes: Any) -> tuple[Outline, Usage]:
        values: dict[str, Any] = {
            "instructions": "Plan.",
            "data": '{"title": "Tea"}',
            "max_tokens": 700,
        } | changes
        call = TextCall(job=job or uuid4(), step="outline", **values)
        while True:
            permit = await self.provider.acquire_permit(call, Outline)
            try:
                return await self.provider.write_text(call, Outline, permit)
            except UnsupportedFeature:
                continue


@asynccontextmanager
async def opened(script: Script, path: str = "/v1", **changes: Any) -> AsyncIterator[Opened]:
    async with run_text_server(script) as server:
        account: TextAccount = make_text_account(
            **{"base_url": server.url + path, "timeout_s": 3.0} | changes
        )
        limiter = make_text_limiter(account)
        async with create_text_client(account) as client:
            yield Opened(OpenAITextProvider(client, account, limiter), limiter, server)


def always(status: int, body: Any, **fields: Any) -> Script:
    return lambda call: Answer(status=status, body=body, **fields)


def in_turn(*answers: Answer) -> Script:
    """Answer the calls one after the other; the last answer remains."""
    left: Iterator[Answer] = iter(answers)
    return lambda call: next(left, answers[-1])


FINE = Answer(body=response_answer(OUTLINE_JSON))
FINE_CHAT = Answer(body=chat_answer(OUTLINE_JSON))


async def test_call_carries_job_and_keeps_nothing() -> None:
    job = uuid4()
    async with opened(lambda call: FINE) as text:
        outline, usage = await text.write_outline(job)
        (call,) = text.server.calls
    assert outline.model_dump() == OUTLINE
    assert (usage.input_tokens, usage.output_tokens) == (210, 90)
    assert call.path == "/v1/responses"
    assert call.headers["authorization"] == "Bearer sk-x"
    assert call.headers["x-blogstream-job"] == str(job)
    assert call.body["store"] is False
    assert call.body["metadata"] == {"job": str(job), "step": "outline"}
    assert call.body["text"]["format"]["strict"] is True


async def test_dribbling_body_ends_at_the_total_deadline() -> None:
    async with opened(always(200, {}, dribble=0.1), timeout_s=0.6) as text:
        began = time.monotonic()
        with pytest.raises(Transient) as failed:
            await text.write_outline()
        assert time.monotonic() - began < 3
    assert (failed.value.code, failed.value.in_doubt) == ("openai-timeout", True)
    assert failed.value.blameless


async def test_cut_body_is_in_doubt_and_a_refused_connection_is_not() -> None:
    async with opened(always(200, response_answer(OUTLINE_JSON), cut=True)) as text:
        with pytest.raises(Transient) as failed:
            await text.write_outline()
        assert (failed.value.code, failed.value.in_doubt) == ("openai-lost", True)
    async with opened(lambda call: FINE, base_url="http://127.0.0.1:9/v1") as text:
        with pytest.raises(Transient) as failed:
            await text.write_outline()
    assert (failed.value.code, failed.value.in_doubt) == ("openai-unreachable", False)


@pytest.mark.parametrize(
    ("body", "code", "delay"),
    [
        (
            response_answer(
                status="failed", error={"code": "server_error", "message": "x"}, usage=None
            ),
            "openai-server-error",
            None,
        ),
        (
            {"error": {"code": 502, "message": "Provider returned error"}},
            "openai-server-error",
            None,
        ),
        (
            {"error": {"code": 429, "message": "busy", "metadata": {"retry_after": 4}}},
            "openai-throttled",
            4.0,
        ),
        (response_answer(output=None, usage=None), "openai-unreadable", None),
        ("", "openai-unreadable", None),
    ],
)
async def test_failure_inside_a_200_lets_the_job_wait(
    body: Any, code: str, delay: float | None
) -> None:
    async with opened(always(200, body)) as text:
        with pytest.raises(Transient) as failed:
            await text.write_outline()
    assert (failed.value.code, failed.value.blameless) == (code, True)
    assert failed.value.delay == (pytest.approx(delay, abs=0.1) if delay else None)


async def test_failed_response_with_usage_is_billed() -> None:
    body = response_answer(status="failed", error={"code": "server_error", "message": "x"})
    async with opened(always(200, body)) as text:
        with pytest.raises(BilledFailure) as failed:
            await text.write_outline()
    assert failed.value.usage.output_tokens == 90
    assert isinstance(failed.value.cause, Transient)


async def test_flagged_input_concerns_its_job_alone() -> None:
    flagged = Answer(status=403, body=error_body("Your input was flagged by moderation", code=403))

    def script(call: Call) -> Answer:
        return flagged if "knives" in call.body["input"] else FINE

    async with opened(script) as text:
        for _ in range(6):
            with pytest.raises(Permanent) as failed:
                await text.write_outline(data='{"title": "knives"}')
            assert failed.value.code == "refused"
        assert not text.limiter.circuit_open
        outline, _ = await text.write_outline()
    assert outline.title == "Herbal tea"


async def test_unexplained_answer_is_blamed_on_its_job_once_others_are_served() -> None:
    odd = Answer(status=404, body=error_body("Item x is gone."))
    poisoned = uuid4()

    def script(call: Call) -> Answer:
        return odd if call.headers["x-blogstream-job"] == str(poisoned) else FINE

    async with opened(script) as text:
        with pytest.raises(Transient) as waits:
            await text.write_outline(poisoned)
        assert waits.value.blameless
        await text.write_outline()
        with pytest.raises(Permanent):
            await text.write_outline(poisoned)
        assert not text.limiter.circuit_open


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=404, body=error_body("The model `x` does not exist", code="model_not_found")),
        Answer(
            status=400, body=error_body("Unknown parameter: 'input'.", code="unknown_parameter")
        ),
        Answer(status=401, body=error_body("Incorrect API key", code="invalid_api_key")),
        Answer(status=429, body=error_body("No money.", type="insufficient_quota")),
    ],
    ids=["model", "parameter", "key", "money"],
)
async def test_fault_of_all_jobs_lets_them_wait_and_opens_the_circuit(answer: Answer) -> None:
    async with opened(lambda call: answer) as text:
        for is_open in (False, True):
            with pytest.raises(Transient) as failed:
                await text.write_outline()
            assert failed.value.blameless
            assert text.limiter.circuit_open is is_open


async def test_auto_falls_back_to_chat_completions_once(capsys: pytest.CaptureFixture[str]) -> None:
    def script(call: Call) -> Answer:
        if call.path == "/v1/responses":
            return Answer(status=404, body={"detail": "Not Found"})
        return FINE_CHAT

    async with opened(script, api="auto", model="qwen3") as text:
        await asyncio.gather(*(text.write_outline() for _ in range(3)))
        outline, usage = await text.write_outline()
        paths = [call.path for call in text.server.calls]
        assert not text.limiter.circuit_open
    assert outline.model_dump() == OUTLINE
    assert (usage.input_tokens, usage.output_tokens) == (210, 90)
    assert paths[-1] == "/v1/chat/completions"
    assert paths.count("/v1/chat/completions") == 4
    assert capsys.readouterr().out.count("server refuses a feature") == 1


async def test_api_that_has_answered_is_kept() -> None:
    gone = Answer(status=404, body={"detail": "Not Found"})
    async with opened(in_turn(FINE, gone), api="auto") as text:
        await text.write_outline()
        with pytest.raises(Transient) as failed:
            await text.write_outline()
    assert failed.value.code == "openai-endpoint"


async def test_server_without_schemas_gets_them_as_instructions() -> None:
    def script(call: Call) -> Answer:
        kind = call.body.get("response_format", {}).get("type")
        if kind is not None:
            return Answer(status=400, body={"error": f"response_format {kind} is not supported"})
        return Answer(body=chat_answer(f"Sure:\n```json\n{OUTLINE_JSON}\n```") | {"usage": None})

    async with opened(script, api="chat", model="llama3") as text:
        outline, usage = await text.write_outline()
        await text.write_outline()
        bodies = [call.body for call in text.server.calls]
    assert outline.model_dump() == OUTLINE
    kinds = [body.get("response_format", {}).get("type") for body in bodies]
    assert kinds == ["json_schema", "json_object", None, None]
    assert '"keywords"' in bodies[-1]["messages"][0]["content"]
    assert usage.input_tokens > 0, "a server that reports no usage is charged with an upper bound"
    assert usage.output_tokens * 2 > len(OUTLINE_JSON)


async def test_reasoning_model_gets_room_and_shows_what_it_spent() -> None:
    usage = response_answer()["usage"] | {
        "output_tokens": 2_090,
        "output_tokens_details": {"reasoning_tokens": 2_000},
        "total_tokens": 2_300,
    }

    def script(call: Call) -> Answer:
        if call.body["max_output_tokens"] < 2_090:
            cut = response_answer(
                status="incomplete", incomplete_details={"reason": "max_output_tokens"}
            )
            return Answer(body=cut)
        return Answer(body=response_answer(OUTLINE_JSON, usage=usage))

    async with opened(script, model="gpt-5-mini", tokens=40_000.0) as text:
        _, spent = await text.write_outline()
        (call,) = text.server.calls
        (tokens,) = (one for one in text.limiter.build_reports() if one.resource == "tokens")
    assert call.body["reasoning"] == {"effort": "minimal"}
    assert (spent.output_tokens, spent.reasoning_tokens) == (2_090, 2_000)
    assert spent.cost_nanousd == 210 * 150 + 2_090 * 600
    assert tokens.used >= call.body["max_output_tokens"], "the permit reserves the room"


async def test_unknown_model_that_reasons_gets_room_from_what_is_seen() -> None:
    def script(call: Call) -> Answer:
        limit = call.body["max_output_tokens"]
        thought = min(2_000, limit)
        usage = {
            "input_tokens": 210,
            "output_tokens": min(limit, 2_090),
            "output_tokens_details": {"reasoning_tokens": thought},
        }
        if limit < 2_090:
            reason = {"reason": "max_output_tokens"}
            return Answer(
                body=response_answer(status="incomplete", incomplete_details=reason, usage=usage)
            )
        return Answer(body=response_answer(OUTLINE_JSON, usage=usage))

    async with opened(script, model="house-model") as text:
        with pytest.raises(UnusableAnswer) as cut:
            await text.write_outline()
        assert cut.value.outcome.code == "openai-incomplete"
        for job in (uuid4(), uuid4()):
            await text.write_outline(cuts=2, job=job)
        await text.write_outline()
        limits = [call.body["max_output_tokens"] for call in text.server.calls]
    assert limits == [700, 2_800, 2_800, 3_700], "later calls have the room at once"


async def test_output_stays_within_the_account() -> None:
    async with opened(lambda call: FINE, tokens=9_000.0) as text:
        await text.write_outline(max_tokens=3_000, cuts=2)
        (call,) = text.server.calls
    assert 8_000 < call.body["max_output_tokens"] < 9_000


async def test_output_stays_within_the_model() -> None:
    def script(call: Call) -> Answer:
        if call.body["max_output_tokens"] > 4_096:
            words = "max_output_tokens is too large. This model supports at most 4096 tokens"
            return Answer(status=400, body=error_body(words))
        return FINE

    async with opened(script) as text:
        await text.write_outline(max_tokens=3_000, cuts=2)
        limits = [call.body["max_output_tokens"] for call in text.server.calls]
    assert limits == [12_000, 4_096]


@pytest.mark.parametrize("path", ["", "/openai"])
async def test_azure_is_called_with_its_key_and_version(path: str) -> None:
    account = {"api": "chat", "azure_api_version": "2024-10-21", "model": "writer"}
    async with opened(lambda call: FINE_CHAT, path, **account) as text:
        await text.write_outline()
        (call,) = text.server.calls
    assert call.path == "/openai/deployments/writer/chat/completions?api-version=2024-10-21"
    assert call.headers["api-key"] == "sk-x"


async def test_azure_without_responses_falls_back() -> None:
    def script(call: Call) -> Answer:
        if "/responses" in call.path:
            missing = {"error": {"code": "404", "message": "Resource not found"}}
            return Answer(status=404, body=missing)
        return FINE_CHAT

    account = {"api": "auto", "azure_api_version": "2024-10-21", "model": "writer"}
    async with opened(script, "", **account) as text:
        await text.write_outline()
        paths = [call.path.split("?")[0] for call in text.server.calls]
    assert paths == ["/openai/responses", "/openai/deployments/writer/chat/completions"]


@pytest.mark.parametrize(
    ("answer", "code", "tokens"),
    [
        (chat_answer("no JSON here"), "openai-schema", 300),
        (chat_answer(None), "openai-empty", 300),
        (chat_answer(None, refusal="I cannot help."), "refused", 300),
        (chat_answer("", finish="content_filter"), "refused", 300),
        (chat_answer('{"title": "Te', finish="length"), "openai-incomplete", 300),
    ],
)
async def test_unusable_answer_is_billed(answer: Any, code: str, tokens: int) -> None:
    async with opened(always(200, answer), api="chat") as text:
        with pytest.raises(UnusableAnswer) as failed:
            await text.write_outline()
        assert not text.limiter.circuit_open
    usage = failed.value.usage
    assert (failed.value.outcome.code, usage.input_tokens + usage.output_tokens) == (code, tokens)


async def test_throttled_calls_wait_as_told_and_fail_no_job() -> None:
    body = error_body("Rate limit reached. Please try again in 2s.", code="rate_limit_exceeded")
    async with opened(in_turn(Answer(status=429, body=body), FINE)) as text:
        with pytest.raises(Transient) as failed:
            await text.write_outline()
    assert failed.value.blameless
    assert failed.value.delay == pytest.approx(2, abs=0.2)
