"""Trace context without an exporter: it goes on as text, and costs no SDK."""

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
from services.ingest.http.trace_context import TraceContext
from shared.domain.messages import BlogRequested, WorkerReport
from shared.kafka.envelope import decode, encode
from shared.observability import tracing
from tests.support.metrics_events import make_worker_report
from tests.unit.shared.test_messages import example, headers

CALLERS = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = "vendor=1,other=2"


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_callers_trace_goes_on_and_else_one_begins() -> None:
    with tracing.start_trace("accept", {"traceparent": CALLERS}):
        assert tracing.headers() == {"traceparent": CALLERS}
    begun = set()
    for broken in ("", "garbage", CALLERS.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)):
        with tracing.start_trace("accept", {"traceparent": broken} if broken else {}):
            own = tracing.traceparent()
            assert own is not None
            assert own.endswith("-00"), "nothing is recorded, so nobody is told that it is"
            begun.add(own)
            with tracing.span("within"):
                assert tracing.traceparent() == own
    assert len(begun) == 3
    assert tracing.traceparent() is None


def test_the_callers_state_goes_on_with_its_trace_and_with_no_other() -> None:
    both = {"traceparent": CALLERS, "tracestate": STATE}
    with tracing.start_trace("accept", both):
        assert tracing.headers() == both
    with tracing.span("attempt", parent=CALLERS, state=STATE), tracing.span("within"):
        assert tracing.headers() == both
    with tracing.span("attempt", parent=CALLERS):
        assert tracing.headers() == {"traceparent": CALLERS}
    for parent in ({}, {"traceparent": "garbage"}):
        with tracing.start_trace("accept", {**parent, "tracestate": STATE}):
            assert tracing.headers().keys() == {"traceparent"}


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
def test_a_state_that_is_none_is_left_aside_and_not_logged(
    state: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tracing.start_trace("accept", {"traceparent": CALLERS, "tracestate": state}):
        assert tracing.headers() == {"traceparent": CALLERS}
    assert caplog.records == []


def test_a_state_of_every_form_that_the_w3c_allows_goes_on() -> None:
    state = "a_1-*/=x y;z:~!, 0tenant@v=t,,b=" + "v" * 255
    with tracing.start_trace("accept", {"traceparent": CALLERS, "tracestate": state}):
        told = tracing.headers()["tracestate"]
    assert told.split(",") == [member.strip() for member in state.split(",") if member]


async def test_several_headers_of_the_state_are_one_list_and_several_parents_are_none() -> None:
    seen = list[dict[str, str]]()

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(tracing.headers())

    app: Any = TraceContext(within, paths=frozenset({"/jobs"}))
    parent, states = (
        (b"traceparent", CALLERS.encode()),
        [(b"tracestate", b"a=1"), (b"tracestate", b"b=2")],
    )
    for told in ([parent, *states], [parent, parent, *states]):
        await app({"type": "http", "method": "POST", "path": "/jobs", "headers": told}, None, None)
    assert seen[0] == {"traceparent": CALLERS, "tracestate": "a=1,b=2"}
    assert seen[1].keys() == {"traceparent"}
    assert seen[1]["traceparent"] != CALLERS


def test_nothing_happens_outside_of_a_trace() -> None:
    with tracing.span("alone"):
        assert tracing.headers() == {}
    assert tracing.record_span("alone", began_ns=time.time_ns()) is None
    assert tracing.record_span("a part", began_ns=time.time_ns(), parent=CALLERS) == CALLERS


def test_a_message_and_its_record_say_the_same() -> None:
    request = decode(example(BlogRequested), headers(BlogRequested))
    assert isinstance(request, BlogRequested)
    assert dict(encode(request, source="t")[1])["traceparent"] == CALLERS.encode()
    assert (
        dict(encode(request, source="t", trace={"tracestate": "other=1"})[1])["tracestate"]
        == STATE.encode()
    )
    own = replace(request, traceparent=None, tracestate=None)
    value, sent = encode(own, source="t", trace={"traceparent": CALLERS, "tracestate": STATE})
    assert decode(value, sent) == request
    assert decode(value, [*sent, ("tracestate", b"\xff")]) == replace(request, tracestate=None)
    assert "traceparent" not in dict(encode(own, source="t")[1])


@pytest.mark.parametrize(
    "garbage", [b"", b"\xff", b"00-\x00", CALLERS.encode() + b"\n", CALLERS.upper().encode(), None]
)
def test_a_header_that_is_no_context_is_left_aside(garbage: bytes | None) -> None:
    own = replace(
        decode(example(BlogRequested), headers(BlogRequested)), traceparent=None, tracestate=None
    )  # type: ignore[call-arg] # it has
    value, sent = encode(own, source="t")
    found: Any = decode(value, [*sent, ("traceparent", garbage)])
    assert found.traceparent is None


def test_a_message_that_belongs_to_no_trace_takes_none() -> None:
    value, sent = encode(make_worker_report("w"), source="t", trace={"traceparent": CALLERS})
    assert isinstance(decode(value, sent), WorkerReport)


def test_a_log_line_within_a_trace_says_which() -> None:
    with tracing.span("attempt", parent=CALLERS):
        assert tracing.add_trace_id(None, "", {"event": "x"}) == {
            "event": "x",
            "trace": CALLERS[3:35],
        }
    assert tracing.add_trace_id(None, "", {"event": "x"}) == {"event": "x"}


def test_what_is_raised_is_noted_by_its_class_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(tracing, "_TRACER", provider.get_tracer("test"))
    monkeypatch.setattr(tracing, "is_recording", lambda: True)
    with pytest.raises(ValueError, match="secret"), tracing.span("call", parent=CALLERS):
        raise ValueError("sk-secret was refused")
    (span,) = kept.get_finished_spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError")
    assert "secret" not in span.to_json()
    assert span.parent is not None
    assert format_span_id(span.parent.span_id) == CALLERS[36:52]


def test_the_sdk_is_loaded_only_where_spans_are_sent() -> None:
    code = (
        "import json, os, sys\nfrom shared.observability import tracing\nloaded = []\n"
        "for endpoint in ('', 'http://127.0.0.1:9'):\n"
        "    os.environ['OTEL_EXPORTER_OTLP_ENDPOINT'] = endpoint\n"
        "    tracing.configure('test')\n"
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


def test_a_home_passes_the_standard_variables_on(tmp_path: Any) -> None:
    ports = Ports(ingest=1, metrics=2, standin_openai=3, standin_replicate=4)
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_TRACES_SAMPLER": "",
        "OTHER": "x",
    }
    made = service_environment(
        Home(tmp_path), ports, database_url="d", bootstrap="b", environ=environ
    )
    assert {name for name in made if name.startswith(("OTEL_", "OTHER"))} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    }


def test_a_jobs_attributes_name_it() -> None:
    assert tracing.job_attributes(UUID(int=1), "a") == {
        "blogstream.job": str(UUID(int=1)),
        "blogstream.store": "a",
    }
