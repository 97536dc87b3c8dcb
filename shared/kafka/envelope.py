"""A message as a record: JSON with CloudEvents headers (binary mode); `ce_type` names the class and its version.

Checked once where it enters, and encoded once where it leaves.
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
    """The record's value and its CloudEvents headers. `source` names the process that says it.

    `trace` has the W3C headers for a message that has no trace of its own.
    """
    headers = [
        *_unvarying_headers(message.TYPE, source),
        ("ce_id", message.event_id().encode()),
        ("ce_time", message.created().isoformat().encode()),
    ]
    for name, text in (_own_trace(message) or trace or {}).items():
        headers.append((name, text.encode()))
    return orjson.dumps(message), headers


@cache
def _unvarying_headers(kind: str, source: str) -> tuple[tuple[str, bytes], ...]:
    """Those that a process says with all its messages of a type."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_type", kind.encode()),
        ("ce_source", source.encode()),
        ("content-type", b"application/json"),
    )


def decode_message(value: bytes | None, headers: Headers) -> Message:
    """The message in a record. `InvalidMessage` when it is empty, of unknown type or version, or breaks its schema."""
    kind = (dict(headers).get("ce_type") or b"").decode(errors="replace")
    if value is None:
        raise InvalidMessage("an empty record")
    if kind not in _ADAPTERS:
        raise InvalidMessage(f"unknown message type {kind!r}")
    try:
        return _traced(_ADAPTERS[kind].validate_json(value), headers)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidMessage(
            f"{kind}: {'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"
        ) from None


def _own_trace(message: Message) -> dict[str, str]:
    if not isinstance(message, _TRACED) or message.traceparent is None:
        return {}
    state = message.tracestate if isinstance(message, BlogRequested) else None
    return {"traceparent": message.traceparent} | (
        {"tracestate": state} if state is not None else {}
    )


def _traced(message: Message, headers: Headers) -> Message:
    """The message with the record's trace context, unless it brings its own, or the header is none."""
    told = {
        name: (value or b"").decode(errors="replace")
        for name, value in headers
        if name in _TRACE_HEADERS
    }
    trace, state = told.get("traceparent", ""), told.get("tracestate", "")
    if (
        not isinstance(message, _TRACED)
        or message.traceparent is not None
        or not _TRACEPARENT.fullmatch(trace)
    ):
        return message
    if isinstance(message, BlogRequested) and _TRACESTATE.fullmatch(state):
        return replace(message, traceparent=trace, tracestate=state)
    return replace(message, traceparent=trace)
