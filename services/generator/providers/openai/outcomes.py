"""The outcomes of calls for texts: OpenAI, Azure OpenAI, gateways and local servers."""

import re
from collections.abc import Callable, Collection
from datetime import datetime

from services.generator.providers.openai import error_words as known
from services.generator.providers.openai.answers import AnswerState, read_answer
from services.generator.providers.openai.errors import ProviderError, find_words, read_error
from services.generator.providers.outcomes.outcome import (
    GATEWAY_TIMEOUTS,
    CallResult,
    Outcome,
    OutcomeKind,
    OutcomeRow,
    TransportFailure,
    classify_result,
)

Matcher = Callable[[CallResult], bool]

REFUSED = "refused"
"""The code of a text that the model or its moderation declines to write."""
INCOMPLETE = "openai-incomplete"
"""The code of an answer that was cut at the limit on its output."""
SCHEMA = "openai-schema"
"""The code of an answer that does not fit its schema."""

_CLIENT = range(400, 500)
_SERVER = range(500, 600)


def _failed(failure: TransportFailure) -> Matcher:
    return lambda result: result.failure is failure


def _error(
    statuses: Collection[int] = (),
    *,
    codes: Collection[str] = (),
    words: re.Pattern[str] | None = None,
    when: Callable[[ProviderError], bool] | None = None,
) -> Matcher:
    """Match an error of one of the statuses, by a code, its words or a condition.

    Without statuses any status matches; without the three others any error matches.
    """

    def matches(result: CallResult) -> bool:
        error = read_error(result)
        if error is None or (statuses and error.status not in statuses):
            return False
        if not codes and words is None and when is None:
            return True
        return (
            not error.codes.isdisjoint(codes)
            or (words is not None and words.search(error.text) is not None)
            or (when is not None and when(error))
        )

    return matches


def _answer(*states: AnswerState, billed: bool | None = None) -> Matcher:
    """Match an answer in one of the states. `billed`: whether its usage reports output tokens."""

    def matches(result: CallResult) -> bool:
        answer = read_answer(result.body)
        if answer is None or answer.state not in states:
            return False
        has_output = answer.usage is not None and answer.usage.output > 0
        return billed is None or billed == has_output

    return matches


def _is_quota_of_a_minute(error: ProviderError) -> bool:
    """Return whether a 429 with words about a quota means a rate limit, as Gemini's do."""
    return error.codes.isdisjoint(known.NO_CREDIT_CODES) and bool(
        known.RETRY_SOON.search(error.text)
    )


def _exceeds_context_alone(error: ProviderError) -> bool:
    """Return whether the input alone is longer than the context, by the numbers in the words."""
    found = known.CONTEXT_NUMBERS.search(error.text)
    return found is not None and int(found[2]) >= int(found[1])


def _is_endpoint_missing(error: ProviderError) -> bool:
    return error.is_page or not error.text


def _everything(_: CallResult) -> bool:
    return True


ENDPOINT_ROWS = {
    "unknown address",
    "no such method",
    "API not offered",
    "page instead of an answer",
}
"""The rows of a server that does not have the API: `auto` tries chat completions."""

TEXT_OUTCOMES: tuple[OutcomeRow, ...] = (
    OutcomeRow(
        name="no connection",
        matches=_failed(TransportFailure.UNREACHABLE),
        kind=OutcomeKind.OUTAGE,
        code="openai-unreachable",
    ),
    OutcomeRow(
        name="no answer in time",
        matches=_failed(TransportFailure.TIMEOUT),
        kind=OutcomeKind.OUTAGE,
        code="openai-timeout",
        in_doubt=True,
    ),
    OutcomeRow(
        name="connection lost",
        matches=_failed(TransportFailure.LOST),
        kind=OutcomeKind.OUTAGE,
        code="openai-lost",
        in_doubt=True,
    ),
    # Errors, of any HTTP status.
    OutcomeRow(
        name="account deactivated or key refused",
        matches=_error(codes=known.KEY_CODES),
        kind=OutcomeKind.ACCOUNT_FAULT,
        code="openai-key",
    ),
    OutcomeRow(
        name="one call is above the limit of a minute",
        matches=_error(_CLIENT, words=known.ABOVE_RATE),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-above-limit",
    ),
    OutcomeRow(
        name="quota of a minute or a day",
        matches=_error((429,), when=_is_quota_of_a_minute),
        kind=OutcomeKind.THROTTLED,
        code="openai-throttled",
    ),
    OutcomeRow(
        name="no credit",
        matches=_error(codes=known.NO_CREDIT_CODES, words=known.NO_CREDIT),
        kind=OutcomeKind.ACCOUNT_FAULT,
        code="openai-no-credit",
    ),
    OutcomeRow(
        name="payment required",
        matches=_error((402,)),
        kind=OutcomeKind.ACCOUNT_FAULT,
        code="openai-no-credit",
    ),
    OutcomeRow(
        name="flagged by moderation",
        matches=_error(codes=known.MODERATION_CODES, when=lambda error: error.flagged),
        kind=OutcomeKind.REQUEST_FAULT,
        code=REFUSED,
    ),
    OutcomeRow(
        name="against the content policy",
        matches=_error(_CLIENT, words=known.MODERATION),
        kind=OutcomeKind.REQUEST_FAULT,
        code=REFUSED,
    ),
    OutcomeRow(
        name="not authenticated",
        matches=_error((401, 407)),
        kind=OutcomeKind.ACCOUNT_FAULT,
        code="openai-key",
    ),
    OutcomeRow(
        name="rate limit",
        matches=_error((429,)),
        kind=OutcomeKind.THROTTLED,
        code="openai-throttled",
    ),
    OutcomeRow(
        name="rate limit under another status",
        matches=_error((*_CLIENT, *_SERVER), codes=known.RATE_CODES, words=known.RATE),
        kind=OutcomeKind.THROTTLED,
        code="openai-throttled",
    ),
    OutcomeRow(
        name="input alone longer than the context",
        matches=_error(_CLIENT, when=_exceeds_context_alone),
        kind=OutcomeKind.REQUEST_FAULT,
        code="too-large",
    ),
    OutcomeRow(
        name="model writes fewer tokens than asked for",
        matches=_error(_CLIENT, words=known.OUTPUT_LIMIT),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-output-limit",
    ),
    OutcomeRow(
        name="input too long",
        matches=_error(codes=known.TOO_LONG_CODES),
        kind=OutcomeKind.REQUEST_FAULT,
        code="too-large",
    ),
    OutcomeRow(
        name="input longer than the context",
        matches=_error((*_CLIENT, 500), words=known.TOO_LONG),
        kind=OutcomeKind.REQUEST_FAULT,
        code="too-large",
    ),
    OutcomeRow(
        name="body too large",
        matches=_error((413,)),
        kind=OutcomeKind.REQUEST_FAULT,
        code="too-large",
    ),
    OutcomeRow(
        name="model wrote invalid JSON",
        matches=_error(codes=known.BAD_JSON_CODES),
        kind=OutcomeKind.ANSWER_FAULT,
        code=SCHEMA,
    ),
    OutcomeRow(
        name="no endpoint serves the request",
        matches=_error(_CLIENT, words=known.NO_ROUTE),
        kind=OutcomeKind.UNEXPLAINED,
        code="openai-no-endpoint",
    ),
    OutcomeRow(
        name="unknown model",
        matches=_error(codes=known.MODEL_CODES),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-model",
    ),
    OutcomeRow(
        name="parameter not accepted",
        matches=_error(_CLIENT, codes=known.PARAMETER_CODES),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-parameter",
    ),
    OutcomeRow(
        name="feature not supported",
        matches=_error((400, 404, 415, 422), words=known.FEATURE),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-parameter",
    ),
    OutcomeRow(
        name="model not available",
        matches=_error(_CLIENT, words=known.MODEL),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-model",
    ),
    OutcomeRow(
        name="no permission",
        matches=_error((403,), words=known.PERMISSION),
        kind=OutcomeKind.ACCOUNT_FAULT,
        code="openai-permission",
    ),
    OutcomeRow(
        name="no such method",
        matches=_error((405, 501)),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-endpoint",
    ),
    OutcomeRow(
        name="unknown address",
        matches=_error((404, 410), words=known.NO_ENDPOINT, when=_is_endpoint_missing),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-endpoint",
    ),
    OutcomeRow(
        name="API not offered",
        matches=_error((400, 422), words=known.NO_ENDPOINT),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-endpoint",
    ),
    OutcomeRow(
        name="parameter refused",
        matches=_error((400, 422), words=known.PARAMETER),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-parameter",
    ),
    OutcomeRow(
        name="gateway time-out",
        matches=_error((408, *GATEWAY_TIMEOUTS)),
        kind=OutcomeKind.OUTAGE,
        code="openai-timeout",
        in_doubt=True,
    ),
    OutcomeRow(
        name="time-out behind a gateway",
        matches=_error(_SERVER, words=known.GATEWAY_TIMEOUT),
        kind=OutcomeKind.OUTAGE,
        code="openai-timeout",
        in_doubt=True,
    ),
    OutcomeRow(
        name="conflict, too early, or closed by the client",
        matches=_error((409, 423, 425, 498, 499)),
        kind=OutcomeKind.OUTAGE,
        code="openai-busy",
    ),
    OutcomeRow(
        name="server error",
        matches=_error(_SERVER),
        kind=OutcomeKind.OUTAGE,
        code="openai-server-error",
    ),
    OutcomeRow(
        name="rejected for an unknown reason",
        matches=_error(_CLIENT),
        kind=OutcomeKind.UNEXPLAINED,
        code="openai-rejected",
    ),
    OutcomeRow(
        name="error of an unknown status",
        matches=_error(),
        kind=OutcomeKind.OUTAGE,
        code="openai-server-error",
    ),
    # Answers without an error.
    OutcomeRow(
        name="answer",
        matches=_answer(AnswerState.COMPLETE),
        kind=OutcomeKind.ANSWER,
        code="",
    ),
    OutcomeRow(
        name="answer cut at its limit",
        matches=_answer(AnswerState.CUT),
        kind=OutcomeKind.ANSWER_FAULT,
        code=INCOMPLETE,
    ),
    OutcomeRow(
        name="refused by the model",
        matches=_answer(AnswerState.REFUSED),
        kind=OutcomeKind.ANSWER_FAULT,
        code=REFUSED,
    ),
    OutcomeRow(
        name="answer stopped by the content filter",
        matches=_answer(AnswerState.FILTERED),
        kind=OutcomeKind.ANSWER_FAULT,
        code=REFUSED,
    ),
    OutcomeRow(
        name="queued, in progress or cancelled",
        matches=_answer(AnswerState.PENDING),
        kind=OutcomeKind.OUTAGE,
        code="openai-pending",
        in_doubt=True,
    ),
    OutcomeRow(
        name="billed answer without a text",
        matches=_answer(AnswerState.EMPTY, billed=True),
        kind=OutcomeKind.ANSWER_FAULT,
        code="openai-empty",
    ),
    OutcomeRow(
        name="answer without a text",
        matches=_answer(AnswerState.EMPTY),
        kind=OutcomeKind.OUTAGE,
        code="openai-unreadable",
        in_doubt=True,
    ),
    OutcomeRow(
        name="page instead of an answer",
        matches=lambda result: known.is_web_page(result.body),
        kind=OutcomeKind.SETUP_FAULT,
        code="openai-endpoint",
    ),
    OutcomeRow(
        name="unreadable answer",
        matches=_everything,
        kind=OutcomeKind.OUTAGE,
        code="openai-unreadable",
        in_doubt=True,
    ),
)
"""The first row that matches decides."""


def classify_text(result: CallResult, now: datetime) -> Outcome:
    """Classify the result of a call for a text."""
    return classify_result(TEXT_OUTCOMES, result, words=find_words(result), now=now)
