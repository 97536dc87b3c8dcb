"""Reads the error of an answer, in every shape that vendors, gateways and local servers use.

`{"error": {…}}`, `{"error": "text"}`, `{"detail": …}`, `{"message": …}`, a list around one of them,
a failed response, an error inside a choice, or a page of text. The HTTP status may be 200.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.generator.providers.openai.answers import read_answer
from services.generator.providers.outcomes.outcome import CallResult

_MAX_CHARACTERS = 1_000
_MAX_TEXT_CHARACTERS = 3_000
_MAX_DEPTH = 3
_CLIENT_ERROR, _SERVER_ERROR = 400, 500
_MAX_STATUS = 599
_THROTTLED = 429

_STATUS_OF_CODE = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limit": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "slow_down": 429,
    "insufficient_quota": 402,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "timeout": 408,
    "request_too_large": 413,
    "invalid_prompt": 400,
    "invalid_request_error": 400,
    "invalid_argument": 400,
    "bad_request": 400,
    "badrequesterror": 400,
    "overloaded_error": 529,
    "server_error": 500,
    "api_error": 500,
    "internal_error": 500,
    "internal_server_error": 500,
}
"""The status that a code or type stands for, where the HTTP status says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderError:
    """An error in one shape. `status` is the HTTP status, or the one that the body stands for."""

    status: int
    codes: frozenset[str] = frozenset()
    """All codes and types, in lower case."""
    param: str = ""
    message: str = ""
    """The provider's words, for people."""
    text: str = ""
    """All words, in lower case, to search in."""
    flagged: bool = False
    """Moderation names the reasons why it flagged the input."""
    is_page: bool = False
    """The body is no JSON object: a page, a plain text, or empty."""


def read_error(result: CallResult) -> ProviderError | None:
    """Read the error of an answer, or return `None` if it has none."""
    body = result.body[0] if isinstance(result.body, list) and result.body else result.body
    is_failure = result.status >= _CLIENT_ERROR
    if not isinstance(body, dict):
        return _page_error(result.status, body) if is_failure else None
    holder = _find_error(body, is_failure=is_failure)
    return None if holder is None else _build_error(result.status, body, holder)


def find_words(result: CallResult) -> str:
    """Return the provider's own words about a failed call, for people, without U+0000."""
    error, answer = read_error(result), read_answer(result.body)
    if error is not None:
        words = error.message
    else:
        words = answer.refusal[:_MAX_CHARACTERS] if answer is not None else result.detail
    return words.replace("\0", "")


def _page_error(status: int, body: Any) -> ProviderError:
    text = body.strip()[:_MAX_CHARACTERS] if isinstance(body, str) else ""
    return ProviderError(status=status, message=text[:200], text=text.lower(), is_page=True)


def _find_error(body: Mapping[str, Any], *, is_failure: bool) -> Any:
    """Return the part of a body that describes its error, or `None`."""
    if error := body.get("error"):
        return error if isinstance(error, str | dict | list) else body
    if body.get("status") == "failed":
        return {"message": "the response failed"}
    choices = body.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("error"):
            return choice["error"]
    if is_failure:
        return body
    has_answer = read_answer(body) is not None
    return None if has_answer or not _has_message(body) else body


def _has_message(body: Mapping[str, Any]) -> bool:
    return any(body.get(name) for name in ("detail", "message", "errors", "error_message"))


def _build_error(status: int, body: Mapping[str, Any], holder: Any) -> ProviderError:
    error = holder if isinstance(holder, dict) else {"message": holder}
    codes = frozenset(_codes(error)) | frozenset(_codes(body))
    words = list(dict.fromkeys(word for word in _words(error) if word))
    metadata = error.get("metadata")
    flagged = isinstance(metadata, dict) and bool(
        metadata.get("flagged_input") or metadata.get("reasons")
    )
    return ProviderError(
        status=_find_status(status, error, body, codes),
        codes=codes,
        param=str(error.get("param") or ""),
        message=words[0][:_MAX_CHARACTERS] if words else ", ".join(sorted(codes)),
        text=" ".join(words).lower()[:_MAX_TEXT_CHARACTERS],
        flagged=flagged,
    )


def _find_status(
    status: int, error: Mapping[str, Any], body: Mapping[str, Any], codes: frozenset[str]
) -> int:
    """Return the status that the error stands for.

    A 429 inside another status is a 429. Otherwise the body decides only where HTTP reports none.
    """
    numbers = [
        number
        for holder in (error, body)
        for name in ("code", "status", "status_code")
        if (number := _number(holder.get(name))) is not None
    ]
    if _THROTTLED in numbers:
        return _THROTTLED
    if status >= _CLIENT_ERROR:
        return status
    named = [_STATUS_OF_CODE[code] for code in sorted(codes) if code in _STATUS_OF_CODE]
    specific = [number for number in named if number != _CLIENT_ERROR]
    return next(iter([*numbers, *specific, *named]), _SERVER_ERROR)


def _number(value: Any) -> int | None:
    """Return a status of an error, written as a number or as its digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == len("429"):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if _CLIENT_ERROR <= value <= _MAX_STATUS else None


def _codes(holder: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Yield the codes and types of an error and of the error inside it, in lower case."""
    for name in ("code", "type", "error_code", "error_type", "status"):
        if isinstance(holder.get(name), str):
            yield holder[name].lower()
    for name in ("innererror", "inner_error", "error"):
        if isinstance(holder.get(name), dict) and depth < _MAX_DEPTH:
            yield from _codes(holder[name], depth + 1)


def _words(error: Mapping[str, Any]) -> Iterator[str]:
    """Yield the error's messages, and those of the upstream provider inside it."""
    for name in ("message", "detail", "error", "msg", "error_message", "title", "errors"):
        yield from _texts(error.get(name))
    metadata = error.get("metadata")
    if isinstance(metadata, dict):
        yield from _texts(metadata.get("raw"))


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the texts of a message, which may be a text, an object or a list of them.

    Leaves out `input`, in which some servers repeat the request.
    """
    if isinstance(value, str):
        yield value.strip()[:_MAX_CHARACTERS]
    elif depth >= _MAX_DEPTH:
        return
    elif isinstance(value, list):
        for item in value[:5]:
            yield from _texts(item, depth + 1)
    elif isinstance(value, dict):
        place = value.get("loc")
        if isinstance(place, list):
            yield ".".join(str(part) for part in place)
        for name in ("message", "msg", "detail", "error", "type"):
            yield from _texts(value.get(name), depth + 1)
