"""W3C trace context, from a client's POST to the providers' calls.

A job waits in PostgreSQL, and its parts run in three services, so its context travels as text (`traceparent`, and the
caller's `tracestate` beside it): in the stored request, in the headers of Kafka's records, and of the calls to
providers. It always does. Spans are recorded and sent only where `OTEL_EXPORTER_OTLP_ENDPOINT` (or
`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) is set; without it neither the SDK nor the exporter is loaded. The other standard
`OTEL_*` variables are the SDK's own.

Only `start_trace` begins a trace. Whatever happens outside of one makes no span.
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
"""Of `tracestate`: as many as the W3C asks everybody to pass on."""
_MEMBERS = 32
_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_PROPAGATOR = TraceContextTextMapPropagator()
_TRACER = trace.get_tracer("blogstream")
"""Finds the provider that `configure_tracing` has set, if it has, when it is first used."""
_RECORDING = Event()
_NOTHING = nullcontext()
_CARRIED: ContextVar[dict[str, str] | None] = ContextVar("trace", default=None)
"""The context around us where nothing is recorded: its headers are all that it takes, and quick to make."""


def configure_tracing(service: str) -> None:
    """Send this process's spans to where the environment says; nothing is done when it does not. Call it once."""
    if any(os.environ.get(name) for name in _ENDPOINTS):
        from shared.observability import otlp  # noqa: PLC0415 - who sends nothing need not load the SDK

        otlp.export_spans(service)
        _RECORDING.set()


def is_recording() -> bool:
    """Whether somebody has asked for spans: who makes thousands of them in a row may spare itself the trouble."""
    return _RECORDING.is_set()


def start_trace(
    name: str, callers: Mapping[str, str], attributes: Attributes = None
) -> AbstractContextManager[None]:
    """A block in the trace that the caller's headers name, or in one that begins here."""
    if is_recording():
        return _recorded(name, _extracted(callers), SpanKind.SERVER, attributes)
    # Nothing is recorded here, but what this request sets off belongs together all the same.
    return _Carried((_told(_around(_extracted(callers))) if callers else None) or _new())


def start_span(
    name: str,
    *,
    parent: str | None = None,
    state: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
) -> AbstractContextManager[None]:
    """A span around a block: a child of `parent` (whose tracestate is `state`), or of the span that is around it
    already. None without either."""
    if not is_recording():
        return _NOTHING if parent is None else _Carried(_told(_around(_context(parent, state))))
    context = _context(parent, state)
    if not _around(context).is_valid:
        return _NOTHING
    return _recorded(name, context, kind, attributes)


def record_span(
    name: str,
    *,
    began_ns: int,
    parent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes = None,
) -> str | None:
    """A span of what began then (`time_ns`) and ends now. Its traceparent; the parent's where nothing is recorded."""
    if not is_recording():
        return parent or current_traceparent()
    context = _context(parent)
    if not _around(context).is_valid:
        return None
    done = _TRACER.start_span(name, context, kind, attributes, start_time=min(began_ns, time_ns()))
    done.end()
    return _text(done.get_span_context())


def job_attributes(job: UUID, store: str) -> dict[str, str | int]:
    """A span's attributes that say whose it is."""
    return {"blogstream.job": str(job), "blogstream.store": store}


def current_traceparent() -> str | None:
    """The context of the span around us, as text."""
    return trace_headers().get(TRACEPARENT_HEADER)


def trace_headers() -> dict[str, str]:
    """What a call to another service is to carry."""
    return dict(_CARRIED.get() or _told(_around(None)))


def add_trace_id(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A processor of log lines: those within a trace say which."""
    if (own := current_traceparent()) is not None:
        event["trace"] = own.split("-")[1]
    return event


class _Carried:
    """A block in which these are the headers. `contextmanager` would make the same, at three times the price."""

    def __init__(self, told: dict[str, str]) -> None:
        self._told = told

    def __enter__(self) -> None:
        self._token = _CARRIED.set(self._told)

    def __exit__(self, *_: object) -> None:
        _CARRIED.reset(self._token)


@contextmanager
def _recorded(
    name: str, context: Context | None, kind: SpanKind, attributes: Attributes
) -> Iterator[None]:
    """What is raised within is noted by its class only: messages may hold what must not leave."""
    with _TRACER.start_as_current_span(
        name, context, kind, attributes, record_exception=False, set_status_on_exception=False
    ) as around:
        try:
            yield
        except BaseException as error:
            around.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _context(parent: str | None, state: str | None = None) -> Context | None:
    """None is the current one."""
    return (
        _extracted({TRACEPARENT_HEADER: parent, TRACESTATE_HEADER: state or ""})
        if parent is not None
        else None
    )


def _extracted(callers: Mapping[str, str]) -> Context:
    """Empty when it is none. The library would write a state that is at fault to the log, whatever a stranger has put
    into it; here it is left out."""
    told = {TRACEPARENT_HEADER: parent} if (parent := callers.get(TRACEPARENT_HEADER)) else {}
    if told and (state := callers.get(TRACESTATE_HEADER)) and _is_state(state):
        told[TRACESTATE_HEADER] = state
    return _PROPAGATOR.extract(told, Context())


def _is_state(text: str) -> bool:
    members = [member.strip(" \t") for member in text.split(",")]
    fits = len(text) <= _STATE_CHARACTERS and len(members) <= _MEMBERS
    return fits and all(not member or _MEMBER.fullmatch(member) for member in members)


def _around(context: Context | None) -> SpanContext:
    """The span of a context; None is the current one."""
    return trace.get_current_span(context).get_span_context()


def _new() -> dict[str, str]:
    """Told apart by chance from all others, and no secret."""
    chance = f"{getrandbits(192):048x}"
    return {TRACEPARENT_HEADER: f"00-{chance[:32]}-{chance[32:]}-00"}


def _told(context: SpanContext) -> dict[str, str]:
    told = {TRACEPARENT_HEADER: _text(context), TRACESTATE_HEADER: context.trace_state.to_header()}
    return {name: value for name, value in told.items() if value}


def _text(context: SpanContext) -> str | None:
    if not context.is_valid:
        return None
    trace_id, span_id = (
        trace.format_trace_id(context.trace_id),
        trace.format_span_id(context.span_id),
    )
    return f"00-{trace_id}-{span_id}-{context.trace_flags:02x}"
