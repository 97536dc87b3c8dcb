"""OpenAI's Responses API. Retries are ours alone: the SDK makes each call once."""

from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import openai
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseTextConfigParam
from pydantic import BaseModel, ValidationError

from services.generator.limiter import ProviderLimiter
from services.generator.rules.article import without_nul
from services.generator.rules.headers import number
from services.generator.rules.limiter import Grant
from services.generator.rules.prices import Prices
from services.generator.rules.prompts import schema_text, upper_bound_of_tokens
from shared import tracing
from shared.errors import Permanent, Transient
from shared.messages import Usage

A = TypeVar("A", bound=BaseModel)

_COOL_DOWN_S = 5.0
_NEVER_CONNECTED = {"ConnectError", "ConnectTimeout", "PoolTimeout"}
"""The HTTP client's own exceptions, by name: which client that is, is the SDK's affair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One text to be written: for whom, as what, from what."""

    job: UUID
    step: str
    instructions: str
    data: str
    max_tokens: int


class PaidInVain(Exception):
    """The model answered, and billed, something that cannot be used. `cause` says what to do about the job."""

    def __init__(self, cause: Transient | Permanent, usage: Usage) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.usage = usage


class OpenAIWriter:
    """Writes texts that fit a model class. `client` was made with `max_retries=0`."""

    def __init__(self, client: AsyncOpenAI, *, model: str, limiter: ProviderLimiter, prices: Prices) -> None:
        self._client = client
        self._model = model
        self._limiter = limiter
        self._prices = prices

    async def wait_turn(self, call: Call, answer: type[A]) -> Grant:
        """Wait until the limits allow the call at its upper bound."""
        texts = (call.instructions, call.data, schema_text(answer))
        try:
            return await self._limiter.acquire(
                {"requests": 1, "tokens": upper_bound_of_tokens(*texts) + call.max_tokens}
            )
        except ValueError as error:
            raise Permanent(str(error), code="too-large") from None

    async def write(self, call: Call, answer: type[A], grant: Grant) -> tuple[A, Usage]:
        """The parsed answer and what it cost. Raises `Transient`, `Permanent`, or `PaidInVain`."""
        asked_at = self._limiter.now()
        try:
            raw = await self._client.responses.with_raw_response.create(
                model=self._model,
                instructions=call.instructions,
                input=call.data,
                max_output_tokens=call.max_tokens,
                metadata={"job": str(call.job), "step": call.step},
                extra_headers={"X-Blogstream-Job": str(call.job)} | tracing.headers(),
                text=text_format(answer),
            )
            self._limiter.seen(grant, raw.headers)
            response = raw.parse()
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIStatusError):
                self._limiter.seen(grant, error.response.headers)
            raise self._translate(error) from error
        except ValueError as error:  # the SDK lets the JSON decoder's error through
            raise Transient(
                f"OpenAI answered with something unreadable: {error}", code="openai-unreadable", in_doubt=True
            ) from error
        self._limiter.answered(asked_at)
        usage = self._usage(response)
        try:
            return _parse(response, answer), usage
        except (Transient, Permanent) as cause:
            raise PaidInVain(cause, usage) from cause

    def _usage(self, response: Response) -> Usage:
        if response.usage is None:
            return Usage()
        return self._prices.of_tokens(response.usage.input_tokens, response.usage.output_tokens)

    def _translate(self, error: openai.OpenAIError) -> Transient | Permanent:
        if isinstance(error, openai.APIStatusError):
            return self._translate_status(error)
        if isinstance(error, openai.APIConnectionError):  # time-outs too
            unheard = type(error.__cause__).__name__ in _NEVER_CONNECTED
            return Transient(f"OpenAI could not be reached: {error}", code="openai-unreachable", in_doubt=not unheard)
        return Transient(f"OpenAI answered with something unreadable: {error}", code="openai-unreadable", in_doubt=True)

    def _translate_status(self, error: openai.APIStatusError) -> Transient | Permanent:
        status, delay = error.status_code, number(error.response.headers, "retry-after")
        if error.code == "insufficient_quota":
            return self._limiter.turned_away("the account has no money left")
        if status == 401:
            return self._limiter.turned_away("the API key is refused")
        if status in (429, 503):
            self._limiter.cool_down(delay or _COOL_DOWN_S)
            return Transient(f"OpenAI answered {status}: {error.message}", delay=delay, code=f"openai-{status}")
        if status in (408, 409) or status >= 500:
            return Transient(f"OpenAI answered {status}", delay=delay, code=f"openai-{status}")
        return Permanent(f"OpenAI refused with {status}: {error.message}", code=f"openai-{status}")


def text_format(answer: type[BaseModel]) -> ResponseTextConfigParam:
    """Asks for an answer that fits a model class."""
    schema = answer.model_json_schema()
    return {"format": {"type": "json_schema", "name": answer.__name__.lower(), "schema": schema, "strict": True}}


def _parse(response: Response, answer: type[A]) -> A:
    if response.status == "incomplete":
        reason = response.incomplete_details.reason if response.incomplete_details else "unknown"
        raise Transient(f"OpenAI's answer is incomplete: {reason}", code="openai-incomplete")
    refusal = next(
        (part.refusal for item in response.output if item.type == "message"
         for part in item.content if part.type == "refusal"), None,
    )  # fmt: skip
    if refusal is not None:
        raise Permanent(f"OpenAI declined to write this: {refusal}", code="refused")
    try:
        return answer.model_validate_json(without_nul(response.output_text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Transient(f"OpenAI's answer breaks its schema: {first['msg']}", code="openai-schema") from None
