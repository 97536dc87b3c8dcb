"""Calls OpenAI's Responses API. The SDK makes each call once: retries are the job's."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

import openai
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseTextConfigParam
from pydantic import BaseModel, ValidationError

from services.generator.blog.article import strip_nul
from services.generator.blog.prompts import estimate_max_tokens, schema_json
from services.generator.providers.headers import (
    COOL_DOWN_STATUSES,
    DEFAULT_COOL_DOWN_S,
    parse_retry_after,
)
from services.generator.providers.prices import Prices
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.rules import Permit
from shared.domain.errors import Permanent, Transient
from shared.domain.messages import Usage
from shared.observability import tracing

A = TypeVar("A", bound=BaseModel)

_GATEWAY_TIMEOUT = 504
"""The server behind the gateway may have done the work."""
_ACCOUNT_CODES = {
    "insufficient_quota": "the account has no money left",
    "billing_not_active": "the account's billing is not active",
    "billing_hard_limit_reached": "the account's own spending limit is reached",
    "account_deactivated": "the account is deactivated",
}
_NEVER_CONNECTED = {"ConnectError", "ConnectTimeout", "PoolTimeout"}
"""The HTTP client's exceptions by name, because the SDK chooses the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCall:
    """The input of one call that writes a text."""

    job: UUID
    step: str
    instructions: str
    data: str
    max_tokens: int


class UnusableAnswer(Exception):
    """The model's answer is billed but unusable. `cause` decides about the job."""

    def __init__(self, cause: Transient | Permanent, usage: Usage) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.usage = usage


class OpenAITextProvider:
    """Writes texts that fit a model class. `client` must have `max_retries=0`."""

    def __init__(
        self, client: AsyncOpenAI, *, model: str, limiter: ProviderLimiter, prices: Prices
    ) -> None:
        self._client = client
        self._model = model
        self._limiter = limiter
        self._prices = prices

    def is_valid(self, permit: Permit) -> bool:
        """Return whether the call may still begin; otherwise it needs a new permit."""
        return self._limiter.is_valid(permit)

    async def acquire_permit(
        self, call: TextCall, answer: type[A], *, may_probe: bool = True
    ) -> Permit:
        """Wait for a permit for the call's maximum tokens. Raises `Permanent` if it never fits."""
        texts = (call.instructions, call.data, schema_json(answer))
        tokens = estimate_max_tokens(*texts) + call.max_tokens
        try:
            return await self._limiter.acquire(
                {"requests": 1, "tokens": tokens}, may_probe=may_probe
            )
        except ValueError as error:
            raise Permanent(str(error), code="too-large") from None

    async def write_text(self, call: TextCall, answer: type[A], permit: Permit) -> tuple[A, Usage]:
        """Return the parsed answer and its usage.

        Raises `Transient`, `Permanent` or `UnusableAnswer`.
        """
        requested_at = self._limiter.now()
        try:
            raw = await self._client.responses.with_raw_response.create(
                model=self._model,
                instructions=call.instructions,
                input=call.data,
                max_output_tokens=call.max_tokens,
                metadata={"job": str(call.job), "step": call.step},
                extra_headers={"X-Blogstream-Job": str(call.job)} | tracing.trace_headers(),
                text=build_text_format(answer),
            )
            self._limiter.apply_headers(permit, raw.headers)
            response = raw.parse()
            usage = self._usage(response)
            self._limiter.record_usage(permit, {"tokens": usage.input_tokens + usage.output_tokens})
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIStatusError):
                self._limiter.apply_headers(permit, error.response.headers)
            raise self._translate(error, requested_at) from error
        except (ValueError, TypeError, AttributeError) as error:
            # The SDK raises these for an answer without JSON or of another shape.
            raise self._unreadable(error, requested_at) from error
        self._limiter.record_success(requested_at)
        try:
            return _parse_answer(response, answer), usage
        except (Transient, Permanent) as cause:
            raise UnusableAnswer(cause, usage) from cause

    def _usage(self, response: Response) -> Usage:
        if response.usage is None:
            return Usage()
        return self._prices.usage_of_tokens(
            response.usage.input_tokens, response.usage.output_tokens
        )

    def _translate(self, error: openai.OpenAIError, requested_at: float) -> Transient | Permanent:
        if isinstance(error, openai.APIStatusError):
            return self._translate_status(error, requested_at)
        if isinstance(error, openai.APIConnectionError):  # includes timeouts
            never_connected = type(error.__cause__).__name__ in _NEVER_CONNECTED
            return Transient(
                f"OpenAI could not be reached: {error}",
                code="openai-unreachable",
                in_doubt=not never_connected,
                blameless=self._limiter.record_failure(requested_at),
            )
        return self._unreadable(error, requested_at)

    def _unreadable(self, error: Exception, requested_at: float) -> Transient:
        return Transient(
            f"OpenAI's answer is unreadable: {error}",
            code="openai-unreadable",
            in_doubt=True,
            blameless=self._limiter.record_failure(requested_at),
        )

    def _translate_status(
        self, error: openai.APIStatusError, requested_at: float
    ) -> Transient | Permanent:
        status = error.status_code
        delay = parse_retry_after(error.response.headers, datetime.now(UTC))
        if error.code in _ACCOUNT_CODES or status in (401, 403, 404):
            return self._limiter.trip_account(
                _ACCOUNT_CODES.get(str(error.code), f"{status}: {error.message}")
            )
        if status in COOL_DOWN_STATUSES:
            self._limiter.start_cool_down(delay or DEFAULT_COOL_DOWN_S)
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
                blameless=self._limiter.record_failure(requested_at),
            )
        return Permanent(f"OpenAI refused with {status}: {error.message}", code=f"openai-{status}")


def build_text_format(answer: type[BaseModel]) -> ResponseTextConfigParam:
    """Build the `text` parameter that requests an answer of a model class."""
    return {
        "format": {
            "type": "json_schema",
            "name": answer.__name__.lower(),
            "schema": answer.model_json_schema(),
            "strict": True,
        }
    }


def _parse_answer(response: Response, answer: type[A]) -> A:
    if response.status == "failed":
        message = response.error.message if response.error else "no reason given"
        raise Transient(f"OpenAI failed to answer: {message}", code="openai-failed")
    if response.status == "incomplete":
        reason = response.incomplete_details.reason if response.incomplete_details else "unknown"
        raise Transient(f"OpenAI's answer is incomplete: {reason}", code="openai-incomplete")
    refusal = _find_refusal(response)
    if refusal is not None:
        raise Permanent(f"OpenAI declined to write this: {refusal}", code="refused")
    try:
        return answer.model_validate_json(strip_nul(response.output_text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Transient(
            f"OpenAI's answer breaks its schema: {first['msg']}", code="openai-schema"
        ) from None


def _find_refusal(response: Response) -> str | None:
    for item in response.output:
        if item.type == "message":
            for part in item.content:
                if part.type == "refusal":
                    return part.refusal
    return None
