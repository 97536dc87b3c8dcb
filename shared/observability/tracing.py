"""W3C trace context, from a client's POST to the provider calls.

A job waits in PostgreSQL and passes through three services, so its context travels as text
(`traceparent`, and the caller's `tracestate`): in the stored request, in the headers of Kafka
records and in the headers of provider calls. Spans are recorded and sent only where
`OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) is set; otherwise neither
the SDK nor the exporter is imported. The SDK reads the other standard `OTEL_*` variables.

Only `start_trace` begins a trace. Code that runs outside of a trace creates no span.
"""

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from random import getrandbits
from threading import Event
from time import time_ns
from typing import Any
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT_HEADER = "traceparent"
TRACESTATE_HEADER = "tracestate"
CLIENT, PRODUCER = SpanKind.CLIENT, SpanKind.PRODUCER

Attributes = Mapping[str, str | int] | None

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_STATE_CHARACTERS = 512
"""Longest `tracestate`: the W3C asks everybody to propagate at least this many characters."""
_MEMBERS = 32
_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_PROPAGATOR = TraceContextTextMapPropagator()
_TRACER = trace.get_tracer("blogstream")
"""Finds the provider that `configure_tracing` has set, on first use."""
_RECORDING = Event()
_NOTHING = nullcontext()
_CURRENT_HEADERS: ContextVar[dict[str, str] | None] = ContextVar("trace", default=None)
"""The current trace headers while no spans are recorded."""


def configure_tracing(service: str) -> None:
    """Send this process's spans to the endpoint in the environment, if any. Call it once."""
    if any(os.environ.get(name) for name in _ENDPOINTS):
        from shared.observability import otlp  # noqa: PLC0415 - loads the SDK

        otlp.export_spans(service)
        _RECORDING.set()


def is_recording() -> bool:
    """Return whether spans are recorded: callers that create thousands can skip the work."""
    return _RECORDING.is_set()


def start_trace(
    name: str, callers: Mapping[str, str], attributes: Attributes = None
) -> AbstractContextManager[None]:
    """A block in the trace of the caller's headers, or in a new trace."""
    if is_recording():
        return _record_block(name, _extract(callers), SpanKind.SERVER, attributes)
    # Not recorded, but all that this request causes belongs to one trace.
    return _TraceHeadersBlock(
        (_headers_of(_span_context(_extract(callers))) if callers else None) or _new_headers()
    )


def start_span(
    name: str,
    *,
    parent: str | None = None,
    state: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
) -> AbstractContextManager[None]:
    """A span around a block: a child of `parent` (with tracestate `state`), or of the current span.

    Creates no span without either.
    """
    if not is_recording():
        return (
            _NOTHING
            if parent is None
            else _TraceHeadersBlock(_headers_of(_span_context(_context(parent, state))))
        )
    context = _context(parent, state)
    if not _span_context(context).is_valid:
        return _NOTHING
    return _record_block(name, context, kind, attributes)


def record_span(
    name: str,
    *,
    began_ns: int,
    parent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
) -> str | None:
    """Record a span that began at `began_ns` (`time_ns`) and ends now.

    Returns its traceparent; the parent's where nothing is recorded.
    """
    if not is_recording():
        return parent or current_traceparent()
    context = _context(parent)
    if not _span_context(context).is_valid:
        return None
    span = _TRACER.start_span(name, context, kind, attributes, start_time=min(began_ns, time_ns()))
    span.end()
    return _format_traceparent(span.get_span_context())


def job_attributes(job: UUID, store: str) -> dict[str, str | int]:
    """The span attributes that identify a job."""
    return {"blogstream.job": str(job), "blogstream.store": store}


def current_traceparent() -> str | None:
    """The traceparent of the current span."""
    return trace_headers().get(TRACEPARENT_HEADER)


def trace_headers() -> dict[str, str]:
    """The trace headers for a call to another service."""
    return dict(_CURRENT_HEADERS.get() or _headers_of(_span_context(None)))


def add_trace_id(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A log processor that adds the trace id to lines within a trace."""
    if (own := current_traceparent()) is not None:
        event["trace"] = own.split("-")[1]
    return event


class _TraceHeadersBlock:
    """A block with these trace headers. `contextmanager` would cost three times as much."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def __enter__(self) -> None:
        self._token = _CURRENT_HEADERS.set(self._headers)

    def __exit__(self, *_: object) -> None:
        _CURRENT_HEADERS.reset(self._token)


@contextmanager
def _record_block(
    name: str, context: Context | None, kind: SpanKind, attributes: Attributes
) -> Iterator[None]:
    """Record a span. Of an exception only the class is recorded: its message may hold secrets."""
    with _TRACER.start_as_current_span(
        name, context, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _context(parent: str | None, state: str | None = None) -> Context | None:
    """The context of a parent; `None`: the current one."""
    return (
        _extract({TRACEPARENT_HEADER: parent, TRACESTATE_HEADER: state or ""})
        if parent is not None
        else None
    )


def _extract(callers: Mapping[str, str]) -> Context:
    """The context in a caller's headers; empty when they are invalid.

    An invalid tracestate is left out, because the library would write its text to the log.
    """
    headers = {TRACEPARENT_HEADER: parent} if (parent := callers.get(TRACEPARENT_HEADER)) else {}
    if headers and (state := callers.get(TRACESTATE_HEADER)) and _is_valid_state(state):
        headers[TRACESTATE_HEADER] = state
    return _PROPAGATOR.extract(headers, Context())


def _is_valid_state(text: str) -> bool:
    members = [member.strip(" \t") for member in text.split(",")]
    fits = len(text) <= _STATE_CHARACTERS and len(members) <= _MEMBERS
    return fits and all(not member or _MEMBER.fullmatch(member) for member in members)


def _span_context(context: Context | None) -> SpanContext:
    """The span of a context; `None`: the current one."""
    return trace.get_current_span(context).get_span_context()


def _new_headers() -> dict[str, str]:
    """Headers of a new trace. The ids are random, and no secret."""
    digits = f"{getrandbits(192):048x}"
    return {TRACEPARENT_HEADER: f"00-{digits[:32]}-{digits[32:]}-00"}


def _headers_of(context: SpanContext) -> dict[str, str]:
    headers = {
        TRACEPARENT_HEADER: _format_traceparent(context),
        TRACESTATE_HEADER: context.trace_state.to_header(),
    }
    return {name: value for name, value in headers.items() if value}


def _format_traceparent(context: SpanContext) -> str | None:
    if not context.is_valid:
        return None
    trace_id, span_id = (
        trace.format_trace_id(context.trace_id),
        trace.format_span_id(context.span_id),
    )
    return f"00-{trace_id}-{span_id}-{context.trace_flags:02x}"
