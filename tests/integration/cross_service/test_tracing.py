"""One job's trace through the real services, as an OTLP collector receives it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.system.home import free_port
from shared.domain.api_keys import create_key
from shared.domain.messages import BlogRequested, JobEvent
from shared.http import server
from shared.kafka.topics import REQUESTS, RESULTS
from tests.support.backend import Backend, running_service
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.ingest import GOOD, PATH, start_ingest
from tests.support.processes import environment, is_ready, start_service_process

CLIENTS_TRACE, CLIENTS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CLIENTS = {
    "traceparent": f"00-{CLIENTS_TRACE}-{CLIENTS_SPAN}-01",
    "tracestate": "rojo=00f067aa0ba902b7,tenant@congo=t61rcWkgMzE",
}

TREE = {
    ("accept", "the client"),
    ("publish blog.requests", "accept"),
    ("admit", "publish blog.requests"),
    ("wait", "publish blog.requests"),
    ("forward", "publish blog.requests"),
    ("attempt", "forward"),
    ("claim", "attempt"),
    ("publish blog.results", "attempt"),
    *((f"step {step}", "attempt") for step in ("outline", "article", "image")),
    *(("limiter wait", f"step {step}") for step in ("outline", "article", "image")),
    *(("publish blog.results", f"step {step}") for step in ("outline", "article")),
    ("call openai", "step outline"),
    ("call openai", "step article"),
    ("call replicate", "step image"),
    ("await replicate", "step image"),
}
"""The name and the parent of every span of a successful job."""


@dataclass(slots=True)
class Collector:
    url: str = ""
    spans: list[tuple[str, Span]] = field(default_factory=list)
    """(service, span) in the order of their arrival."""

    async def receive_export(self, request: Request) -> Response:
        export = ExportTraceServiceRequest.FromString(await request.body())
        for resource in export.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        return Response(answer, media_type="application/x-protobuf")

    def tree(self) -> set[tuple[str, str]]:
        names = {span.span_id.hex(): span.name for _, span in self.spans} | {
            CLIENTS_SPAN: "the client"
        }
        return {
            (span.name, names.get(span.parent_span_id.hex(), "an unknown span"))
            for _, span in self.spans
        }

    def named(self, name: str) -> list[Span]:
        return [span for _, span in self.spans if span.name == name]


@asynccontextmanager
async def start_collector() -> AsyncIterator[Collector]:
    collector, listener = Collector(), server.open_listener("127.0.0.1", 0)
    collector.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    application = Starlette(
        routes=[Route("/v1/traces", collector.receive_export, methods=["POST"])]
    )
    async with running_service(lambda stop: server.serve_http(application, listener, stop)):
        yield collector


async def test_job_is_one_trace_across_failover(
    backend: Backend, database: str, standins: StandIns, tmp_path: Path
) -> None:
    key, port, output = await create_key(backend.database, "shop"), free_port(), tmp_path / "log"
    async with start_collector() as collector:
        variables = environment(backend, database) | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "PORT": str(port),
            "OPENAI_API_KEY": "sk-x",
            "OPENAI_BASE_URL": f"{standins.openai.url}/v1",
            "REPLICATE_API_TOKEN": "r8-x",
            "REPLICATE_BASE_URL": standins.replicate.url,
            "IMAGE_DIR": str(tmp_path / "images"),
            "METRICS_URL": "http://127.0.0.1:1",
        }
        async with (
            start_service_process("ingest", variables, output),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            await eventually(partial(is_ready, client))
            async with start_service_process("scheduler", variables, output):
                headers = {"Authorization": f"Bearer {key}"} | CLIENTS
                answer = await client.post(PATH, json=GOOD, headers=headers)
                job = UUID(answer.json()["id"])
                await eventually(partial(backend.has_status, job, "PENDING"))
            async with (
                start_service_process("scheduler", variables, output),
                start_service_process("generator", variables, output),
            ):
                await eventually(partial(backend.has_status, job, "DONE"), timeout=60)
        assert collector.tree() == TREE
        assert {span.trace_id.hex() for _, span in collector.spans} == {CLIENTS_TRACE}
    events = [
        event for _, event in await backend.read_records(RESULTS) if isinstance(event, JobEvent)
    ]
    assert {(event.traceparent or "")[3:35] for event in events} == {CLIENTS_TRACE}
    _check_services(collector)
    _check_provider_calls(collector, standins, job)
    lines = [json.loads(line) for line in output.read_text().splitlines() if line.startswith("{")]
    (done,) = [line for line in lines if line["event"] == "job done"]
    assert (done["trace"], done["job"]) == (CLIENTS_TRACE, str(job))


async def test_every_request_of_a_bulk_call_is_in_its_trace(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with start_ingest(backend, database, tmp_path) as ingest:
        headers = {"Authorization": f"Bearer {ingest.key}"} | CLIENTS
        answer = await ingest.http.post(
            f"{PATH}/bulk", json=[GOOD, GOOD | {"sourceId": "b"}], headers=headers
        )
        assert answer.status_code == 201
    requests = [
        request
        for _, request in await backend.read_records(REQUESTS)
        if isinstance(request, BlogRequested)
    ]
    assert [(request.traceparent or "")[3:35] for request in requests] == [CLIENTS_TRACE] * 2
    assert [request.tracestate for request in requests] == [CLIENTS["tracestate"]] * 2


def _check_services(collector: Collector) -> None:
    by_service: dict[str, set[str]] = {}
    for name, span in collector.spans:
        by_service.setdefault(name, set()).add(span.name)
        assert span.end_time_unix_nano >= span.start_time_unix_nano
    assert by_service["blogstream-ingest"] == {"accept", "publish blog.requests"}
    assert by_service["blogstream-scheduler"] == {"admit", "wait", "forward"}
    (accept,), (wait,), (claim,) = (collector.named(name) for name in ("accept", "wait", "claim"))
    assert (
        wait.start_time_unix_nano
        < accept.end_time_unix_nano
        < wait.end_time_unix_nano
        <= claim.end_time_unix_nano
    )


def _check_provider_calls(collector: Collector, standins: StandIns, job: UUID) -> None:
    for provider, calls in (
        (standins.openai, "call openai"),
        (standins.replicate, "call replicate"),
    ):
        seen = {tuple(context["traceparent"].split("-")[1:3]) for context in provider.traces(job)}
        assert seen == {(CLIENTS_TRACE, span.span_id.hex()) for span in collector.named(calls)}
        assert {context.get("tracestate") for context in provider.traces(job)} == {
            CLIENTS["tracestate"]
        }
