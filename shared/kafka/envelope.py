"""Encodes a message as a record and decodes it: JSON with CloudEvents headers (binary mode).

The header `ce_type` names the class and its version. A message is validated once, on decoding, and
encoded once.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import orjson
from pydantic import TypeAdapter, ValidationError

from shared.domain.errors import InvalidMessage
from shared.domain.messages import MESSAGES, BlogRequested, GenerationTask, JobEvent, Message

Headers = Sequence[tuple[str, bytes | None]]

_TRACED = (BlogRequested, GenerationTask, JobEvent)
_TRACEPARENT = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile("[ -~]{1,512}")
_TRACE_HEADERS = ("traceparent", "tracestate")
_ADAPTERS: dict[str, TypeAdapter[Message]] = {
    message.TYPE: TypeAdapter(message) for message in MESSAGES
}


def encode_message(
    message: Message, *, source: str, trace: Mapping[str, str] | None = None
) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Encode a message. Returns the record's value and headers.

    `source` names the sending process. `trace` has the W3C headers for a message without a trace of
    its own.
    """
    headers = [
        *_constant_headers(message.TYPE, source),
        ("ce_id", message.event_id().encode()),
        ("ce_time", message.created().isoformat().encode()),
    ]
    for name, text in (_message_trace(message) or trace or {}).items():
        headers.append((name, text.encode()))
    return orjson.dumps(message), headers


@cache
def _constant_headers(kind: str, source: str) -> tuple[tuple[str, bytes], ...]:
    """The headers that are equal in all messages of a type and process."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", kind.encode()),
        ("ce_source", source.encode()),
        ("content-type", b"application/json"),
    )


def decode_message(value: bytes | None, headers: Headers) -> Message:
    """Decode a record. `InvalidMessage` when it is empty, of unknown type or breaks its schema."""
    kind = (dict(headers).get("ce_type") or b"").decode(errors="replace")
    if value is None:
        raise InvalidMessage("an empty record")
    if kind not in _ADAPTERS:
        raise InvalidMessage(f"unknown message type {kind!r}")
    try:
        return _with_record_trace(_ADAPTERS[kind].validate_json(value), headers)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidMessage(
            f"{kind}: {'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"
        ) from None


def _message_trace(message: Message) -> dict[str, str]:
    if not isinstance(message, _TRACED) or message.traceparent is None:
        return {}
    state = message.tracestate if isinstance(message, BlogRequested) else None
    return {"traceparent": message.traceparent} | (
        {"tracestate": state} if state is not None else {}
    )


def _with_record_trace(message: Message, headers: Headers) -> Message:
    """The message with the record's trace context, unless it has its own or the header is bad."""
    texts = {
        name: (value or b"").decode(errors="replace")
        for name, value in headers
        if name in _TRACE_HEADERS
    }
    trace, state = texts.get("traceparent", ""), texts.get("tracestate", "")
    if (
        not isinstance(message, _TRACED)
        or message.traceparent is not None
        or not _TRACEPARENT.fullmatch(trace)
    ):
        return message
    if isinstance(message, BlogRequested) and _TRACESTATE.fullmatch(state):
        return replace(message, traceparent=trace, tracestate=state)
    return replace(message, traceparent=trace)
