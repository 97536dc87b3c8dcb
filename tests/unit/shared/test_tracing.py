"""Trace context without an exporter: it is passed on as text, without the SDK."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id
from starlette.types import Receive, Scope, Send

from sandbox.system.environment import Ports, service_environment
from sandbox.system.home import ROOT, Home
from services.ingest.http.middleware import TraceContext
from shared.domain.messages import BlogRequested, WorkerReport
from shared.kafka.envelope import decode_message, encode_message
from shared.observability import tracing
from tests.support.message_examples import example_value, type_header

CALLERS = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = "vendor=1,other=2"


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_trace_of_the_caller_continues_or_a_new_one_begins() -> None:
    with tracing.start_trace("accept", {"traceparent": CALLERS}):
        assert tracing.trace_headers() == {"traceparent": CALLERS}
    traceparents = set()
    for broken in ("", "garbage", CALLERS.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)):
        with tracing.start_trace("accept", {"traceparent": broken} if broken else {}):
            own = tracing.current_traceparent()
            assert own is not None
            assert own.endswith("-00"), "nothing is recorded, so the sampled flag is off"
            traceparents.add(own)
            with tracing.start_span("within"):
                assert tracing.current_traceparent() == own
    assert len(traceparents) == 3
    assert tracing.current_traceparent() is None


def test_tracestate_is_passed_on_with_its_trace_only() -> None:
    both = {"traceparent": CALLERS, "tracestate": STATE}
    with tracing.start_trace("accept", both):
        assert tracing.trace_headers() == both
    with tracing.start_span("attempt", parent=CALLERS, state=STATE), tracing.start_span("within"):
        assert tracing.trace_headers() == both
    with tracing.start_span("attempt", parent=CALLERS):
        assert tracing.trace_headers() == {"traceparent": CALLERS}
    for parent in ({}, {"traceparent": "garbage"}):
        with tracing.start_trace("accept", {**parent, "tracestate": STATE}):
            assert tracing.trace_headers().keys() == {"traceparent"}


@pytest.mark.parametrize(
    "state",
    [
        "",
        ",",
        "no member",
        "A=1",
        "a=",
        "a=1,a=2",
        "a=\u00e9",
        "a=1\n",
        "a=" + "x" * 511,
        ",".join(f"a{n}=1" for n in range(33)),
    ],
)
def test_invalid_tracestate_is_dropped_and_not_logged(
    state: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tracing.start_trace("accept", {"traceparent": CALLERS, "tracestate": state}):
        assert tracing.trace_headers() == {"traceparent": CALLERS}
    assert caplog.records == []


def test_every_valid_form_of_tracestate_is_passed_on() -> None:
    state = "a_1-*/=x y;z:~!, 0tenant@v=t,,b=" + "v" * 255
    with tracing.start_trace("accept", {"traceparent": CALLERS, "tracestate": state}):
        tracestate = tracing.trace_headers()["tracestate"]
    assert tracestate.split(",") == [member.strip() for member in state.split(",") if member]


async def test_repeated_tracestate_is_joined_repeated_parent_dropped() -> None:
    seen = list[dict[str, str]]()

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(tracing.trace_headers())

    app: Any = TraceContext(within, paths=frozenset({"/jobs"}))
    parent, states = (
        (b"traceparent", CALLERS.encode()),
        [(b"tracestate", b"a=1"), (b"tracestate", b"b=2")],
    )
    for headers in ([parent, *states], [parent, parent, *states]):
        await app(
            {"type": "http", "method": "POST", "path": "/jobs", "headers": headers}, None, None
        )
    assert seen[0] == {"traceparent": CALLERS, "tracestate": "a=1,b=2"}
    assert seen[1].keys() == {"traceparent"}
    assert seen[1]["traceparent"] != CALLERS


def test_no_span_is_created_outside_of_a_trace() -> None:
    with tracing.start_span("alone"):
        assert tracing.trace_headers() == {}
    assert tracing.record_span("alone", began_ns=time.time_ns()) is None
    assert tracing.record_span("a part", began_ns=time.time_ns(), parent=CALLERS) == CALLERS


def test_record_headers_carry_the_trace_of_the_message() -> None:
    request = decode_message(example_value(BlogRequested), type_header(BlogRequested))
    assert isinstance(request, BlogRequested)
    assert dict(encode_message(request, source="t")[1])["traceparent"] == CALLERS.encode()
    assert (
        dict(encode_message(request, source="t", trace={"tracestate": "other=1"})[1])["tracestate"]
        == STATE.encode()
    )
    own = replace(request, traceparent=None, tracestate=None)
    value, sent = encode_message(
        own, source="t", trace={"traceparent": CALLERS, "tracestate": STATE}
    )
    assert decode_message(value, sent) == request
    assert decode_message(value, [*sent, ("tracestate", b"\xff")]) == replace(
        request, tracestate=None
    )
    assert "traceparent" not in dict(encode_message(own, source="t")[1])


@pytest.mark.parametrize(
    "garbage", [b"", b"\xff", b"00-\x00", CALLERS.encode() + b"\n", CALLERS.upper().encode(), None]
)
def test_invalid_traceparent_header_is_ignored(garbage: bytes | None) -> None:
    own = replace(
        decode_message(example_value(BlogRequested), type_header(BlogRequested)),
        traceparent=None,
        tracestate=None,
    )  # type: ignore[call-arg] # a BlogRequested
    value, sent = encode_message(own, source="t")
    found: Any = decode_message(value, [*sent, ("traceparent", garbage)])
    assert found.traceparent is None


def test_report_takes_no_trace_from_its_record() -> None:
    report = decode_message(example_value(WorkerReport), type_header(WorkerReport))
    value, sent = encode_message(report, source="t", trace={"traceparent": CALLERS})
    assert isinstance(decode_message(value, sent), WorkerReport)


def test_log_line_within_a_trace_has_its_id() -> None:
    with tracing.start_span("attempt", parent=CALLERS):
        assert tracing.add_trace_id(None, "", {"event": "x"}) == {
            "event": "x",
            "trace": CALLERS[3:35],
        }
    assert tracing.add_trace_id(None, "", {"event": "x"}) == {"event": "x"}


def test_span_records_only_the_class_of_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    monkeypatch.setattr(tracing, "is_recording", lambda: True)
    with pytest.raises(ValueError, match="secret"), tracing.start_span("call", parent=CALLERS):
        raise ValueError("sk-secret was refused")
    (span,) = exporter.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
    assert "secret" not in span.to_json()
    assert span.parent is not None
    assert format_span_id(span.parent.span_id) == CALLERS[36:52]


def test_sdk_is_loaded_only_where_spans_are_sent() -> None:
    code = (
        "import json, os, sys\nfrom shared.observability import tracing\nloaded = []\n"
        "for endpoint in ('', 'http://127.0.0.1:9'):\n"
        "    os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = endpoint\n"
        "    tracing.configure_tracing('test')\n"
        "    loaded.append('opentelemetry.sdk' in sys.modules)\n"
        "print(json.dumps(loaded))\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", code),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == [False, True]


def test_home_passes_on_the_standard_variables(tmp_path: Any) -> None:
    ports = Ports(ingest=1, metrics=2, standin_openai=3, standin_replicate=4)
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_TRACES_SAMPLER": "",
        "OTHER": "x",
    }
    environment = service_environment(
        Home(tmp_path), ports, database_url="d", bootstrap="b", environ=environ
    )
    assert {name for name in environment if name.startswith(("OTEL_", "OTHER"))} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    }


def test_job_attributes_identify_the_job() -> None:
    assert tracing.job_attributes(UUID(int=1), "a") == {
        "blogstream.job": str(UUID(int=1)),
        "blogstream.store": "a",
    }
