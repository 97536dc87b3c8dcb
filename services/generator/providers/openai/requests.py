"""Builds the bodies of calls, and narrows what is sent to what the server accepts.

A server that refuses a feature is sent calls without it for as long as the process lives.
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel

from services.generator.providers.accounts.account import TextAccount
from services.generator.providers.openai.errors import ProviderError, read_error
from services.generator.providers.openai.outcomes import ENDPOINT_ROWS
from services.generator.providers.openai.reasoning import EFFORTS, find_effort, reasons
from services.generator.providers.openai.strict_schema import (
    build_strict_schema,
    strict_schema_json,
)
from services.generator.providers.outcomes.outcome import CallResult, Outcome, OutcomeKind

_REFUSING_STATUSES = (400, 404, 415, 422, 501)
_REFUSAL = re.compile(
    r"unsupported|unknown|unrecogni[sz]ed|unexpected|invalid|not (?:currently )?(?:support|permit"
    r"|allow)|only allowed|unavailable|not available|extra|must be|does not|cannot|too large"
    r"|less than|at most|maximum|schema"
)
_EFFORT_PARAMS = {"reasoning", "effort", "reasoning_effort"}
_EFFORT = re.compile(
    r"\breasoning[_. ]?effort\b|['\"`](?:reasoning|effort)['\"`]|\bbody\.reasoning\b"
    r"|not support(?:ed)? reasoning|reasoning is not support"
    r"|(?:argument|parameter)s?(?: supplied)?:? reasoning\b"
)
_FORMAT_PARAMS = {"response_format", "json_schema", "format", "text", "schema", "strict"}
_FORMAT = re.compile(
    r"response[_ ]format|json[_ ]schema|json_object|json mode|text\.format|structured output"
    r"|\b(?:invalid|unsupported|strict) schema\b"
    r"|\bschema\b.{0,80}(?:not support|unsupported|too (?:many|complex|large)|exceeds|nesting)"
)
_LIMIT_PARAMS = {"max_tokens", "max_completion_tokens", "max_output_tokens"}
_LIMIT_NAME = re.compile(r"\bmax_(?:completion_|output_)?tokens\b")
_LIMIT = re.compile(
    r"(?:at most|less than or equal to|maximum(?: value)?(?: is| of)?|>|<=|up to|exceed)"
    r"\D{0,40}?(\d+)"
)
_OPTIONAL_PARAMS = {"metadata", "store"}
_OPTIONAL = re.compile(
    r"['\"`](?:\w+\.)*(metadata|store)['\"`]|\bbody\.(metadata|store)\b"
    r"|\b(?:argument|parameter|field|property|keyword)s?(?: supplied)?:? (metadata|store)"
    r"(?=\W*$|[,;.])"
    r"|^(metadata|store): "
)
"""A parameter as servers name it: quoted, by its path, or after a word such as `argument`. The same
words also occur in everyday sentences."""
_NO_PARAM = {"", "none", "null"}
_TEXT_PARAMS = {"input", "instructions", "messages", "prompt"}
"""Parameters that hold a job's texts: their refusal concerns one job."""
_MIN_OUTPUT = 256
_NOT_FOUND = 404


class AnswerFormat(StrEnum):
    """How a server is told which form the answer has."""

    STRICT_SCHEMA = "strict schema"
    JSON_MODE = "JSON mode"
    """Any JSON object; the instructions hold the schema."""
    INSTRUCTIONS = "instructions"
    """Nothing but the schema in the instructions."""


_WEAKER_FORMAT = {
    AnswerFormat.STRICT_SCHEMA: AnswerFormat.JSON_MODE,
    AnswerFormat.JSON_MODE: AnswerFormat.INSTRUCTIONS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFeatures:
    """What the server accepts, as far as is known."""

    api: Literal["responses", "chat"]
    may_change_api: bool = False
    """Chat completions are tried if the server has no Responses API. False after an answer."""
    answer_format: AnswerFormat = AnswerFormat.STRICT_SCHEMA
    effort: str | None = None
    """The reasoning effort to send."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_completion_tokens"
    """The name of the output limit in chat completions."""
    has_changed_limit_field: bool = False
    output_limit: int | None = None
    """The most output tokens that the model writes, if a refusal named them."""
    omitted: frozenset[str] = frozenset()
    """Refused parameters that are not needed."""
    always_sends_store: bool = False
    """The vendor keeps the answers of calls without `store`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallText:
    """The texts of one call, its labels, and the limit on its output."""

    instructions: str
    data: str
    labels: dict[str, str]
    max_output_tokens: int


def expect_features(account: TextAccount) -> ServerFeatures:
    """Return what an account's server is expected to accept before the first call."""
    is_openai = account.base_url is None or "api.openai.com" in account.base_url
    return ServerFeatures(
        api="chat" if account.api == "chat" else "responses",
        may_change_api=account.api == "auto",
        effort=find_effort(account),
        limit_field="max_completion_tokens" if is_openai or reasons(account) else "max_tokens",
        omitted=frozenset() if is_openai or account.store else frozenset({"chat store"}),
        always_sends_store=is_openai,
    )


def build_body(
    features: ServerFeatures, account: TextAccount, call: CallText, answer: type[BaseModel]
) -> tuple[str, dict[str, Any]]:
    """Build the path and the JSON body of a call."""
    if features.api == "responses":
        return "/responses", _build_response_body(features, account, call, answer)
    return "/chat/completions", _build_chat_body(features, account, call, answer)


def narrow_features(
    features: ServerFeatures, result: CallResult, outcome: Outcome, *, sent_limit: int
) -> ServerFeatures | None:
    """Return the features without the one that the server refused; `None` if it refused none."""
    error = read_error(result)
    if features.may_change_api and _is_api_missing(outcome, error):
        return replace(features, api="chat", may_change_api=False)
    if error is None or error.status not in _REFUSING_STATUSES:
        return None
    if not _REFUSAL.search(error.text) and not error.param:
        return None
    return (
        _narrow_effort(features, error)
        or _narrow_limit(features, error, sent_limit)
        or _narrow_optional(features, error)
        or _narrow_format(features, error)
    )


def _is_api_missing(outcome: Outcome, error: ProviderError | None) -> bool:
    """Return whether the server may lack the API: any 404 but one about the model says so."""
    is_not_found = error is not None and error.status == _NOT_FOUND
    return outcome.row in ENDPOINT_ROWS or (
        is_not_found and outcome.kind is OutcomeKind.UNEXPLAINED
    )


def _names(error: ProviderError, params: set[str], words: re.Pattern[str]) -> bool:
    """Return whether an error is about one of the parameters.

    The error's own `param` decides. Without one, the error's words must name the parameter.
    """
    param = error.param.lower()
    if param not in _NO_PARAM:
        parts = set(re.findall(r"\w+", param))
        return not params.isdisjoint(parts) and _TEXT_PARAMS.isdisjoint(parts)
    return words.search(error.text) is not None


def _narrow_effort(features: ServerFeatures, error: ProviderError) -> ServerFeatures | None:
    """Send the least effort of those that the refusal lists, or none."""
    if features.effort is None or not _names(error, _EFFORT_PARAMS, _EFFORT):
        return None
    listed = set(re.findall(r"['\"`](\w+)['\"`]", error.text.partition("supported values")[2]))
    least = next((effort for effort in EFFORTS if effort in listed - {features.effort}), None)
    if least is not None and EFFORTS.index(least) > _rank(features.effort):
        return replace(features, effort=least)
    return replace(features, effort=None)


def _rank(effort: str) -> int:
    return EFFORTS.index(effort) if effort in EFFORTS else -1


def _narrow_limit(
    features: ServerFeatures, error: ProviderError, sent_limit: int
) -> ServerFeatures | None:
    """Rename the output limit, or lower it to what the model writes at most."""
    words = f"{error.param} {error.text}"
    if not _names(error, _LIMIT_PARAMS, _LIMIT_NAME):
        return None
    if found := _LIMIT.search(error.text):
        limit = int(found[1])
        if _MIN_OUTPUT <= limit < min(sent_limit, features.output_limit or sent_limit):
            return replace(features, output_limit=limit)
        return None
    if features.api == "responses" or features.has_changed_limit_field:
        return None
    if not re.search(rf"\b{features.limit_field}\b", words):
        return None
    other: Literal["max_tokens", "max_completion_tokens"] = (
        "max_tokens" if features.limit_field == "max_completion_tokens" else "max_completion_tokens"
    )
    return replace(features, limit_field=other, has_changed_limit_field=True)


def _narrow_optional(features: ServerFeatures, error: ProviderError) -> ServerFeatures | None:
    """Omit the parameter that the refusal names first."""
    if not _names(error, _OPTIONAL_PARAMS, _OPTIONAL):
        return None
    named = re.findall(r"metadata|store", error.param.lower())
    if not named:
        found = _OPTIONAL.search(error.text)
        assert found is not None
        named = list(filter(None, found.groups()))
    name = named[0]
    is_needed = name == "store" and features.always_sends_store
    if is_needed or name in features.omitted:
        return None
    return replace(features, omitted=features.omitted | {name})


def _narrow_format(features: ServerFeatures, error: ProviderError) -> ServerFeatures | None:
    weaker = _WEAKER_FORMAT.get(features.answer_format)
    if weaker is None or not _names(error, _FORMAT_PARAMS, _FORMAT):
        return None
    return replace(features, answer_format=weaker)


def _build_response_body(
    features: ServerFeatures, account: TextAccount, call: CallText, answer: type[BaseModel]
) -> dict[str, Any]:
    optional: dict[str, Any] = {"metadata": call.labels, "store": account.store}
    body: dict[str, Any] = {
        "model": account.model,
        "instructions": _instruct(features, call, answer),
        "input": call.data,
        "max_output_tokens": call.max_output_tokens,
    }
    body |= {name: value for name, value in optional.items() if name not in features.omitted}
    if features.effort is not None:
        body["reasoning"] = {"effort": features.effort}
    if features.answer_format is AnswerFormat.STRICT_SCHEMA:
        body["text"] = build_text_format(answer)
    elif features.answer_format is AnswerFormat.JSON_MODE:
        body["text"] = {"format": {"type": "json_object"}}
    return body


def _build_chat_body(
    features: ServerFeatures, account: TextAccount, call: CallText, answer: type[BaseModel]
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": account.model,
        "messages": [
            {"role": "system", "content": _instruct(features, call, answer)},
            {"role": "user", "content": call.data},
        ],
        features.limit_field: call.max_output_tokens,
    }
    if not features.omitted & {"store", "chat store"}:
        body["store"] = account.store
    if account.store and "metadata" not in features.omitted:
        body["metadata"] = call.labels  # OpenAI refuses labels of an answer that it does not store
    if features.effort is not None:
        body["reasoning_effort"] = features.effort
    if features.answer_format is AnswerFormat.STRICT_SCHEMA:
        body["response_format"] = {"type": "json_schema", "json_schema": _named_schema(answer)}
    elif features.answer_format is AnswerFormat.JSON_MODE:
        body["response_format"] = {"type": "json_object"}
    return body


def build_text_format(answer: type[BaseModel]) -> dict[str, Any]:
    """Build the `text` parameter that requests an answer of a model class."""
    return {"format": {"type": "json_schema", **_named_schema(answer)}}


def _named_schema(answer: type[BaseModel]) -> dict[str, Any]:
    return {
        "name": answer.__name__.lower(),
        "schema": build_strict_schema(answer),
        "strict": True,
    }


def _instruct(features: ServerFeatures, call: CallText, answer: type[BaseModel]) -> str:
    if features.answer_format is AnswerFormat.STRICT_SCHEMA:
        return call.instructions
    return (
        f"{call.instructions} Answer with one JSON object that fits this JSON schema, and with"
        f" nothing else: {strict_schema_json(answer)}"
    )
