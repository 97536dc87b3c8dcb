"""OpenAI's Responses API. Retries are ours alone: the SDK makes each call once."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

import openai
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseTextConfigParam
from pydantic import BaseModel, ValidationError

from services.generator.blog.article import strip_nul
from services.generator.blog.prompts import schema_json, estimate_max_tokens
from services.generator.providers.headers import parse_retry_after
from services.generator.providers.prices import Prices
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.rules import Permit
from shared.domain.errors import Permanent, Transient
from shared.domain.messages import Usage
from shared.observability import tracing

A = TypeVar("A", bound=BaseModel)

_COOL_DOWN_S = 5.0
_GATEWAY_TIMEOUT = 504
"""What is behind the gateway may have done its work."""
_ACCOUNT_CODES = {
    "insufficient_quota": "the account has no money left",
    "billing_not_active": "the account's billing is not active",
    "billing_hard_limit_reached": "the account's own limit of spending is reached",
    "account_deactivated": "the account is deactivated",
}
_NEVER_CONNECTED = {"ConnectError", "ConnectTimeout", "PoolTimeout"}
"""The HTTP client's own exceptions, by name: which client that is, is the SDK's affair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCall:
    """One text to be written: for whom, as what, from what."""

    job: UUID
    step: str
    instructions: str
    data: str
    max_tokens: int


class UnusableAnswer(Exception):
    """The model answered, and billed, something that cannot be used. `cause` says what to do about the job."""

    def __init__(self, cause: Transient | Permanent, usage: Usage) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.usage = usage


class OpenAITextProvider:
    """Writes texts that fit a model class. `client` was made with `max_retries=0`."""

    def __init__(
        self, client: AsyncOpenAI, *, model: str, limiter: ProviderLimiter, prices: Prices
    ) -> None:
        self._client = client
        self._model = model
        self._limiter = limiter
        self._prices = prices

    def is_valid(self, grant: Permit) -> bool:
        """Whether the call may still be made, or is to wait for its turn once more."""
        return self._limiter.is_valid(grant)

    async def acquire_permit(self, call: TextCall, answer: type[A], *, may_probe: bool = True) -> Permit:
        """Wait until the limits allow the call at its upper bound."""
        texts = (call.instructions, call.data, schema_json(answer))
        try:
            return await self._limiter.acquire(
                {"requests": 1, "tokens": estimate_max_tokens(*texts) + call.max_tokens},
                may_probe=may_probe,
            )
        except ValueError as error:
            raise Permanent(str(error), code="too-large") from None

    async def write_text(self, call: TextCall, answer: type[A], grant: Permit) -> tuple[A, Usage]:
        """The parsed answer and what it cost. Raises `Transient`, `Permanent`, or `UnusableAnswer`."""
        asked_at = self._limiter.now()
        try:
            raw = await self._client.responses.with_raw_response.create(
                model=self._model,
                instructions=call.instructions,
                input=call.data,
                max_output_tokens=call.max_tokens,
                metadata={"job": str(call.job), "step": call.step},
                extra_headers={"X-Blogstream-Job": str(call.job)} | tracing.headers(),
                text=build_text_format(answer),
            )
            self._limiter.apply_headers(grant, raw.headers)
            response = raw.parse()
            usage = self._usage(response)
            self._limiter.record_usage(grant, {"tokens": usage.input_tokens + usage.output_tokens})
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIStatusError):
                self._limiter.apply_headers(grant, error.response.headers)
            raise self._translate(error, asked_at) from error
        except (
            ValueError,
            TypeError,
            AttributeError,
        ) as error:  # the SDK lets them through: no JSON, or another shape
            raise self._unreadable(error, asked_at) from error
        self._limiter.record_success(asked_at)
        try:
            return _parse_answer(response, answer), usage
        except (Transient, Permanent) as cause:
            raise UnusableAnswer(cause, usage) from cause

    def _usage(self, response: Response) -> Usage:
        if response.usage is None:
            return Usage()
        return self._prices.usage_of_tokens(response.usage.input_tokens, response.usage.output_tokens)

    def _translate(self, error: openai.OpenAIError, asked_at: float) -> Transient | Permanent:
        if isinstance(error, openai.APIStatusError):
            return self._translate_status(error, asked_at)
        if isinstance(error, openai.APIConnectionError):  # time-outs too
            unheard = type(error.__cause__).__name__ in _NEVER_CONNECTED
            return Transient(
                f"OpenAI could not be reached: {error}",
                code="openai-unreachable",
                in_doubt=not unheard,
                blameless=self._limiter.record_failure(asked_at),
            )
        return self._unreadable(error, asked_at)

    def _unreadable(self, error: Exception, asked_at: float) -> Transient:
        return Transient(
            f"OpenAI answered with something unreadable: {error}",
            code="openai-unreadable",
            in_doubt=True,
            blameless=self._limiter.record_failure(asked_at),
        )

    def _translate_status(
        self, error: openai.APIStatusError, asked_at: float
    ) -> Transient | Permanent:
        status, delay = error.status_code, parse_retry_after(error.response.headers, datetime.now(UTC))
        if error.code in _ACCOUNT_CODES or status in (401, 403, 404):
            return self._limiter.trip_account(
                _ACCOUNT_CODES.get(str(error.code), f"{status}: {error.message}")
            )
        if status in (429, 503):
            self._limiter.start_cool_down(delay or _COOL_DOWN_S)
        if status == 429 or status in (408, 409):
            return Transient(
                f"OpenAI answered {status}: {error.message}", delay=delay, code=f"openai-{status}"
            )
        if status >= 500:
            return Transient(
                f"OpenAI answered {status}",
                delay=delay,
                code=f"openai-{status}",
                in_doubt=status == _GATEWAY_TIMEOUT,
                blameless=self._limiter.record_failure(asked_at),
            )
        return Permanent(f"OpenAI refused with {status}: {error.message}", code=f"openai-{status}")


def build_text_format(answer: type[BaseModel]) -> ResponseTextConfigParam:
    """Asks for an answer that fits a model class."""
    schema = answer.model_json_schema()
    return {
        "format": {
            "type": "json_schema",
            "name": answer.__name__.lower(),
            "schema": schema,
            "strict": True,
        }
    }


def _parse_answer(response: Response, answer: type[A]) -> A:
    if response.status == "failed":
        said = response.error.message if response.error else "no reason given"
        raise Transient(f"OpenAI failed to answer: {said}", code="openai-failed")
    if response.status == "incomplete":
        reason = response.incomplete_details.reason if response.incomplete_details else "unknown"
        raise Transient(f"OpenAI's answer is incomplete: {reason}", code="openai-incomplete")
    refusal = next(
        (
            part.refusal
            for item in response.output
            if item.type == "message"
            for part in item.content
            if part.type == "refusal"
        ),
        None,
    )
    if refusal is not None:
        raise Permanent(f"OpenAI declined to write this: {refusal}", code="refused")
    try:
        return answer.model_validate_json(strip_nul(response.output_text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Transient(
            f"OpenAI's answer breaks its schema: {first['msg']}", code="openai-schema"
        ) from None
