"""Reads the text of an answer, in the shape of the Responses API or of chat completions.

Answers are read from raw JSON. Every field may be missing, null or of another type.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from json import JSONDecoder
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from services.generator.blog.article import strip_nul

A = TypeVar("A", bound=BaseModel)

_MAX_TOKENS = 10_000_000
"""A larger number of tokens in an answer is a mistake."""
_MAX_CANDIDATES = 200
"""Places in an answer where an object may begin."""
_CUT_REASONS = {"length", "max_output_tokens", "max_tokens"}
_BRACE = re.compile(r"\{")
_DECODER = JSONDecoder()


class AnswerState(StrEnum):
    """How an answer ended."""

    COMPLETE = "complete"
    CUT = "cut"
    """By the limit on output tokens."""
    FILTERED = "filtered"
    REFUSED = "refused"
    PENDING = "pending"
    """The server works on, or has given up, and sends no text."""
    FAILED = "failed"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """The billed tokens of a call. `output` includes `reasoning`."""

    input: int
    output: int
    reasoning: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAnswer:
    """An answer's end, its texts in their order, and its usage if the server reports any."""

    state: AnswerState
    texts: tuple[str, ...] = ()
    refusal: str = ""
    usage: TokenUsage | None = None


def read_answer(body: Any) -> TextAnswer | None:
    """Read an answer of either shape, or return `None` for a body that is no answer."""
    if not isinstance(body, dict):
        return None
    usage = read_usage(body)
    if "choices" in body:
        return _read_chat(body, usage)
    if "output" in body or body.get("object") == "response" or "output_text" in body:
        return _read_response(body, usage)
    return None


def read_usage(body: Any) -> TokenUsage | None:
    """Read the usage of either shape, or `None` if there is none, or an impossible one.

    Some servers leave reasoning out of the output tokens.
    """
    usage = _mapping(body).get("usage")
    if not isinstance(usage, dict) or not usage:
        return None
    spent_input = _count(usage.get("input_tokens", usage.get("prompt_tokens")))
    output = _count(usage.get("output_tokens", usage.get("completion_tokens")))
    total = _count(usage.get("total_tokens"))
    details = usage.get("output_tokens_details", usage.get("completion_tokens_details"))
    reasoning = _count(_mapping(details).get("reasoning_tokens")) or 0
    if spent_input is None or output is None or total is None:
        return None
    output = max(output, total - spent_input)
    return TokenUsage(input=spent_input, output=output, reasoning=min(reasoning, output))


def parse_answer(texts: tuple[str, ...], answer: type[A]) -> A:
    """Return the last whole object in the texts that fits the model class.

    Accepts fenced JSON, text around JSON, and JSON that was written twice. Raises `ValueError` with
    the problem of the first attempt.
    """
    problem = "the answer holds no JSON object"
    for text in (*reversed(texts), *(["".join(texts)] if len(texts) > 1 else [])):
        whole = strip_nul(text)
        try:
            return answer.model_validate_json(whole)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            problem = f"the answer breaks its schema: {first['msg']}"
        for candidate in reversed(list(_find_objects(whole))):
            try:
                return answer.model_validate(candidate)
            except ValidationError:
                continue
    raise ValueError(problem)


def _read_response(body: Mapping[str, Any], usage: TokenUsage | None) -> TextAnswer:
    parts = [
        part
        for item in list_objects(body.get("output"))
        if item.get("type", "message") == "message"
        for part in list_objects(item.get("content"))
    ]
    texts = tuple(part["text"] for part in parts if _has_text(part))
    if not texts and isinstance(body.get("output_text"), str):
        texts = tuple(filter(str.strip, [body["output_text"]]))
    refusal = next((part["refusal"] for part in parts if isinstance(part.get("refusal"), str)), "")
    state = _response_state(body, has_text=bool(texts), refused=bool(refusal))
    return TextAnswer(state=state, texts=texts, refusal=refusal, usage=usage)


def _response_state(body: Mapping[str, Any], *, has_text: bool, refused: bool) -> AnswerState:
    status = body.get("status")
    if status == "failed":
        return AnswerState.FAILED
    if status in ("queued", "in_progress", "cancelled"):
        return AnswerState.PENDING
    if refused:
        return AnswerState.REFUSED
    if status == "incomplete":
        return _cut_state(_mapping(body.get("incomplete_details")).get("reason"))
    return AnswerState.COMPLETE if has_text else AnswerState.EMPTY


def _read_chat(body: Mapping[str, Any], usage: TokenUsage | None) -> TextAnswer:
    choice = next(iter(list_objects(body.get("choices"))), {})
    message = _mapping(choice.get("message"))
    texts = tuple(_message_texts(message.get("content")))
    if not texts and isinstance(choice.get("text"), str):
        texts = (choice["text"],)
    refusal = message.get("refusal") if isinstance(message.get("refusal"), str) else ""
    finish = choice.get("finish_reason")
    state = AnswerState.COMPLETE if texts else AnswerState.EMPTY
    if refusal:
        state = AnswerState.REFUSED
    elif finish in _CUT_REASONS or finish == "content_filter":
        state = _cut_state(finish)
    return TextAnswer(state=state, texts=texts, refusal=str(refusal), usage=usage)


def _cut_state(reason: Any) -> AnswerState:
    return AnswerState.FILTERED if reason == "content_filter" else AnswerState.CUT


def _message_texts(content: Any) -> Iterator[str]:
    """Yield the texts of a chat message: one text, or parts."""
    if isinstance(content, str):
        yield from filter(str.strip, [content])
    yield from (part["text"] for part in list_objects(content) if _has_text(part))


def _has_text(part: Mapping[str, Any]) -> bool:
    return isinstance(part.get("text"), str) and bool(part["text"].strip())


def _find_objects(text: str) -> Iterator[Any]:
    """Yield the whole JSON objects in a text, in their order, without those inside another."""
    end = 0
    for number, brace in enumerate(_BRACE.finditer(text)):
        if number > _MAX_CANDIDATES:
            return
        if brace.start() < end:
            continue
        try:
            found, end = _DECODER.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        yield from _unwrap(found)


def _unwrap(found: Any) -> Iterator[Any]:
    """Yield the only member of an object, such as `{"article": {…}}`, and then the object."""
    if isinstance(found, dict) and len(found) == 1:
        yield next(iter(found.values()))
    yield found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def list_objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the JSON objects in a list, or nothing for a value of another type."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _count(value: Any) -> int | None:
    """Return a number of tokens, also from a text; 0 for none, `None` for an impossible one."""
    if value is None:
        return 0
    if isinstance(value, bool):
        return None
    try:
        tokens = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return tokens if 0 <= tokens <= _MAX_TOKENS else None
