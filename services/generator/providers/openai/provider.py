"""Writes texts by OpenAI's protocols. Each call is made once: retries are the job's."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from openai import AsyncOpenAI
from pydantic import BaseModel

from services.generator.blog.prompts import estimate_max_tokens
from services.generator.providers.accounts.account import TextAccount
from services.generator.providers.accounts.choice import AccountState
from services.generator.providers.openai.answers import (
    TokenUsage,
    parse_answer,
    read_answer,
    read_usage,
)
from services.generator.providers.openai.client import post_call
from services.generator.providers.openai.outcomes import SCHEMA, classify_text
from services.generator.providers.openai.reasoning import ReasoningRoom
from services.generator.providers.openai.requests import (
    CallText,
    ServerFeatures,
    build_body,
    expect_features,
    narrow_features,
)
from services.generator.providers.openai.strict_schema import strict_schema_json
from services.generator.providers.outcomes.outcome import CallResult, Outcome, OutcomeKind
from services.generator.quota.provider_limiter import ProviderLimiter
from services.generator.quota.rules import FIRST, Permit, PermitRank
from shared.domain.errors import Permanent, Transient
from shared.domain.messages import Usage
from shared.observability import tracing
from shared.observability.log import get_logger

log = get_logger(__name__)

A = TypeVar("A", bound=BaseModel)

_MISFIT = "answer of another form"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCall:
    """The input of one call that writes a text."""

    job: UUID
    store: str = ""
    model: str | None = None
    """The model that the job asks for."""
    step: str
    instructions: str
    data: str
    max_tokens: int
    """Output tokens of the text itself, without the room for reasoning."""
    cuts: int = 0
    """Earlier answers to this call that were cut at their limit."""
    rank: PermitRank = FIRST
    """Its place in the permit queue."""


class UnusableAnswer(Exception):
    """The model's answer is billed but unusable.

    `problem` tells the model what to repair, in our words.
    """

    def __init__(self, outcome: Outcome, usage: Usage, *, problem: str = "") -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome
        self.usage = usage
        self.problem = problem or outcome.row


class BilledFailure(Exception):
    """A call that failed, although the provider reports usage."""

    def __init__(self, cause: Transient | Permanent, usage: Usage) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.usage = usage


class UnsupportedFeature(Exception):
    """The server refused a feature, unbilled. The provider no longer sends it: repeat the call."""


class OpenAITextProvider:
    """Writes texts that fit a model class. `client` must have `max_retries=0`."""

    def __init__(self, client: AsyncOpenAI, account: TextAccount, limiter: ProviderLimiter) -> None:
        self._client = client
        self._account = account
        self.limiter = limiter
        self._features = expect_features(account)
        self._room = ReasoningRoom(account)

    @property
    def name(self) -> str:
        return self._account.name

    @property
    def fallback(self) -> int:
        return self._account.fallback

    def state_for(self, call: TextCall, answer: type[BaseModel]) -> AccountState:
        """Return how soon the account would serve a call."""
        return AccountState(
            name=self._account.name,
            fallback=self._account.fallback,
            weight=self._account.weight,
            serves=self.limiter.is_serving(call.job),
            wait_s=self.limiter.estimate_wait(self._compute_needs(call, answer), call.rank),
            calls=self.limiter.calls_last_minute(),
            closed_s=self.limiter.closed_s,
        )

    def is_valid(self, permit: Permit) -> bool:
        """Return whether the call may still begin; otherwise it needs a new permit."""
        return self.limiter.is_valid(permit)

    async def acquire_permit(self, call: TextCall, answer: type[A]) -> Permit:
        """Wait for a permit for the call's maximum tokens, at most the account's limit."""
        return await self.limiter.acquire(self._compute_needs(call, answer), call.job, call.rank)

    def _compute_needs(self, call: TextCall, answer: type[BaseModel]) -> dict[str, float]:
        tokens = _estimate_input(call, answer) + self._limit_output(call, answer)
        return {"requests": 1, "tokens": min(tokens, self._account.tokens)}

    async def write_text(self, call: TextCall, answer: type[A], permit: Permit) -> tuple[A, Usage]:
        """Return the parsed answer and its usage.

        Raises `Transient`, `Permanent`, `BilledFailure`, `UnusableAnswer` or `UnsupportedFeature`.
        """
        requested_at = self.limiter.now()
        sent, limit = self._features, self._limit_output(call, answer)
        result = await self._post(sent, call, answer, limit)
        self.limiter.apply_headers(permit, result.headers)
        outcome = classify_text(result, datetime.now(UTC))
        if outcome.kind is OutcomeKind.ANSWER:
            self._features = replace(self._features, may_change_api=False)
        else:
            self._narrow(sent, result, outcome, limit)
        usage = self._find_usage(call, answer, result, outcome)
        self.limiter.record_usage(permit, {"tokens": usage.input_tokens + usage.output_tokens})
        written: A | None = None
        if outcome.kind is OutcomeKind.ANSWER:
            written, outcome = _parse(result, answer, outcome)
        outcome = self.limiter.record_outcome(
            outcome, job=call.job, call=call.step, requested_at=requested_at
        )
        if written is not None:
            return written, usage
        raise _build_failure(outcome, usage)

    async def _post(
        self, features: ServerFeatures, call: TextCall, answer: type[A], limit: int
    ) -> CallResult:
        text = CallText(
            instructions=call.instructions,
            data=call.data,
            labels={"job": str(call.job), "step": call.step},
            max_output_tokens=limit,
        )
        path, body = build_body(features, self._account, text, answer)
        headers = {"X-Blogstream-Job": str(call.job)} | tracing.trace_headers()
        return await post_call(self._client, path, body, headers, self._account.timeout_s)

    def _limit_output(self, call: TextCall, answer: type[BaseModel]) -> int:
        """Return the call's output limit, within the account's limit and the model's."""
        limit = self._room.limit_output(call.max_tokens, call.cuts)
        left = round(self._account.tokens) - _estimate_input(call, answer)
        return max(1, min(limit, left, self._features.output_limit or limit))

    def _narrow(
        self, sent: ServerFeatures, result: CallResult, outcome: Outcome, limit: int
    ) -> None:
        """Raise `UnsupportedFeature` if the server refused a feature that can be left out."""
        if sent != self._features:  # another call has met a refusal meanwhile
            narrowed: ServerFeatures | None = self._features
        else:
            narrowed = narrow_features(sent, result, outcome, sent_limit=limit)
        if narrowed is None or not _is_refusal(outcome):
            return
        if narrowed != self._features:
            self._features = narrowed
            log.warning(
                "server refuses a feature, calls continue without it",
                provider=self._account.name,
                model=self._account.model,
                reason=outcome.reason,
                api=narrowed.api,
                answer_format=str(narrowed.answer_format),
                effort=narrowed.effort,
            )
        raise UnsupportedFeature(outcome.reason)

    def _find_usage(
        self, call: TextCall, answer: type[BaseModel], result: CallResult, outcome: Outcome
    ) -> Usage:
        """Return the billed usage. A text without reported usage counts with an upper bound."""
        tokens = read_usage(result.body)
        if tokens is None or (outcome.kind is OutcomeKind.ANSWER and not tokens.output):
            if outcome.kind not in (OutcomeKind.ANSWER, OutcomeKind.ANSWER_FAULT):
                return Usage()
            read = read_answer(result.body)
            output = estimate_max_tokens(*(read.texts if read else ()))
            tokens = TokenUsage(input=_estimate_input(call, answer), output=output, reasoning=0)
        if outcome.kind is OutcomeKind.ANSWER:  # a cut answer says nothing about the room it needs
            self._room.record_reasoning(call.job, tokens.reasoning)
        return self._account.prices.usage_of_tokens(
            tokens.input, tokens.output, reasoning_tokens=tokens.reasoning
        )


def _estimate_input(call: TextCall, answer: type[BaseModel]) -> int:
    return estimate_max_tokens(call.instructions, call.data, strict_schema_json(answer))


def _is_refusal(outcome: Outcome) -> bool:
    return outcome.kind in (OutcomeKind.SETUP_FAULT, OutcomeKind.UNEXPLAINED)


def _parse(result: CallResult, answer: type[A], outcome: Outcome) -> tuple[A | None, Outcome]:
    """Parse an answer. One that does not fit its schema is the answer's fault."""
    read = read_answer(result.body)
    try:
        return parse_answer(read.texts if read else (), answer), outcome
    except ValueError as error:
        return None, replace(
            outcome,
            kind=OutcomeKind.ANSWER_FAULT,
            code=SCHEMA,
            reason=str(error),
            row=_MISFIT,
        )


def _build_failure(outcome: Outcome, usage: Usage) -> Exception:
    """Build the error of a call."""
    if outcome.kind is OutcomeKind.ANSWER_FAULT:
        problem = outcome.reason if outcome.row == _MISFIT else outcome.row
        return UnusableAnswer(outcome, usage, problem=problem)
    error = outcome.to_error()
    return BilledFailure(error, usage) if usage != Usage() else error
