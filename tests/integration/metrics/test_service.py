"""metrics as a process on the real broker: exact counts, endpoints, startup and the page."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.system.home import free_port
from shared.http import server as shared_http
from shared.http.responses import JsonResponse
from shared.kafka import clients as shared_kafka
from shared.kafka.topics import RESULTS, WORKERS
from tests.support import prometheus_text
from tests.support.backend import Backend, running_service
from tests.support.eventually import eventually
from tests.support.metrics_events import make_scheduler_report, make_worker_report
from tests.support.metrics_service import (
    KINDS,
    MetricsProcess,
    publish_job_events,
    run_rebuild,
    start_metrics,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tables"


async def test_counts_are_exact_after_repeats_garbage_and_a_kill(
    backend: Backend, folder: Path
) -> None:
    topic = shared_kafka.namespace(backend.settings).topic(RESULTS)
    async with start_metrics(backend, folder) as first:
        await publish_job_events(backend, range(10))
        await publish_job_events(backend, range(5))
        async with AIOKafkaProducer(
            bootstrap_servers=backend.settings.kafka_bootstrap_servers
        ) as producer:
            await producer.send_and_wait(topic, b"garbage", key=b"store-0")
            await producer.send_and_wait(topic, None, key=b"store-1")
            headers = [("ce_type", b"blogstream.job-event.v9")]
            await producer.send_and_wait(topic, b"{}", key=b"store-2", headers=headers)
        await publish_job_events(backend, range(10, 12), failed=True)
        await eventually(partial(first.has_counted, {"DONE": 10, "FAILED": 2}))
        assert (await first.get_json("/api/overview"))["malformedEvents"] == 3
        assert (await run_rebuild(backend, folder)) == 3, (
            "a rebuild is refused while a process runs"
        )
        await first.kill()
    await publish_job_events(backend, range(12, 15))
    async with start_metrics(backend, folder) as second:
        await eventually(partial(second.has_counted, {"DONE": 13, "FAILED": 2}), timeout=60)
        await publish_job_events(backend, range(15))
        await publish_job_events(backend, range(20, 21))
        await eventually(partial(second.has_counted, {"DONE": 14, "FAILED": 2}))
        overview = await second.get_json("/api/overview")
        assert overview["usage"] == {"inputTokens": 160, "outputTokens": 320, "images": 16}
        stores = (await second.get_json("/api/stores"))["items"]
        assert sum(store["done"] for store in stores) == 14
        assert {store["store"] for store in stores} == {"store-0", "store-1", "store-2"}


async def test_endpoints_show_reports_and_jobs(backend: Backend, folder: Path) -> None:
    async with (
        serve_fake_ingest() as ingest,
        start_metrics(backend, folder, INGEST_URL=ingest.url) as running,
    ):
        assert await running.get_json("/metrics") == {
            "blog_queue_size": 0,
            "openai_rpm_usage": 0.0,
            "openai_tpm_usage": 0.0,
            "openai_queue_length": 0,
        }

        async def reports_are_shown() -> bool:
            now = datetime.now(UTC)
            await backend.publish(
                WORKERS, "w1", replace(make_worker_report("w1", at=now), partitions=(0, 1))
            )
            await backend.publish(WORKERS, "s", make_scheduler_report(7, at=now))
            found = await running.get_json("/metrics")
            return bool(found["blog_queue_size"] == 7 and found["openai_rpm_usage"] == 20.0)

        await eventually(reports_are_shown, every=0.3)
        stats = await running.get_json("/api/rate-limiter/stats")
        assert stats["status"] == "ok"
        tokens = stats["rateLimiter"]["openai"]["m"]["tokens"]
        assert tokens["limitPerMinute"] == 200_000
        assert (
            sum(part["sharePerMinute"] for part in tokens["byPartition"])
            == tokens["sharePerMinute"]
        )
        (worker,) = (await running.get_json("/api/workers"))["items"]
        assert (worker["worker"], worker["slots"], worker["alive"]) == ("w1", 50, True)
        text = (await running.http.get("/metrics", headers={"Accept": "text/plain"})).text
        assert prometheus_text.read(text)["blogstream_jobs_pending"].value() == 7
        assert (
            (await running.http.get("/metrics?format=prometheus"))
            .headers["content-type"]
            .startswith("text/plain")
        )
        await check_jobs_and_stream(backend, running)
        await check_invalid_queries(running)
        await check_cancel_and_retry(running, ingest)


async def check_jobs_and_stream(backend: Backend, running: MetricsProcess) -> None:
    await publish_job_events(backend, range(30))
    await eventually(partial(running.has_counted, {"DONE": 30}))
    assert len((await running.get_json("/api/jobs"))["items"]) == 20
    (latest,) = (await running.get_json("/api/jobs?limit=1"))["items"]
    assert set(latest) >= {
        "job",
        "store",
        "status",
        "attempt",
        "createdAt",
        "startedAt",
        "finishedAt",
        "waitSeconds",
        "costUsd",
        "error",
    }
    timeline = await running.get_json(f"/api/jobs/{latest['job']}/timeline")
    assert timeline["waitSeconds"] == 3
    assert [event["kind"] for event in timeline["events"]] == KINDS
    assert (await running.get_json("/api/alerts"))["items"] == []
    async with running.http.stream("GET", "/api/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.aiter_lines()
        snapshots = [
            orjson.loads(line.removeprefix("data: "))
            async for line in take_lines(lines, "data: ", 2)
        ]
    for snapshot in snapshots:
        assert set(snapshot) == {"overview", "stores", "workers", "rateLimiter", "alerts", "jobs"}
        assert snapshot["overview"]["jobs"]["DONE"] == 30
        assert {row["store"] for row in snapshot["stores"]["items"]} == {
            "a",
            "store-0",
            "store-1",
            "store-2",
        }
    assert snapshots[0]["overview"]["at"] < snapshots[1]["overview"]["at"]


async def take_lines(lines: AsyncIterator[str], prefix: str, count: int) -> AsyncIterator[str]:
    """Yield the first `count` lines with this prefix."""
    async for line in lines:
        if line.startswith(prefix):
            yield line
            count -= 1
            if count == 0:
                return


async def check_invalid_queries(running: MetricsProcess) -> None:
    wrong = (
        "/metrics?format=xml",
        "/metrics?format=json&x=1",
        "/metrics?format=json&format=json",
        "/api/stores?limit=1&limit=1",
        "/api/overview?x=1",
        "/api/stores?limit=0",
        "/api/stores?limit=1001",
        "/api/stores?offset=-1",
        "/api/workers?a=b",
        "/api/jobs?limit=101",
        "/api/jobs?limit=ten",
        "/api/events?x=",
        "/api/rate-limiter/stats?partition=1",
        "/api/alerts?x=1",
        f"/api/jobs/{UUID(int=0)}/timeline?x=1",
    )
    for path in wrong:
        answer = await running.http.get(path)
        assert answer.status_code == 422, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["errors"][0]["field"], path
    for path in (
        f"/api/jobs/{UUID(int=10**9)}/timeline",
        "/api/jobs/no-id/timeline",
        "/api/nothing",
    ):
        assert (await running.http.get(path)).status_code == 404, path


async def check_cancel_and_retry(running: MetricsProcess, ingest: "FakeIngest") -> None:
    job = UUID(int=1)
    for action, status in (("cancel", 200), ("retry", 409)):
        answer = await running.http.post(
            f"/api/jobs/{job}/{action}", headers={"Authorization": "Bearer sk_operator_x"}
        )
        assert (answer.status_code, answer.json()) == (
            status,
            {"action": action, "key": "Bearer sk_operator_x"},
        )
    assert (await running.http.post(f"/api/jobs/{job}/cancel")).json()["key"] is None
    ingest.stop.set()
    await eventually(partial(_answers_bad_gateway, running, job))
    assert (await running.http.get(f"/api/jobs/{job}/cancel")).status_code == 405


async def _answers_bad_gateway(running: MetricsProcess, job: UUID) -> bool:
    return (await running.http.post(f"/api/jobs/{job}/cancel")).status_code == 502


@dataclass(frozen=True, slots=True)
class FakeIngest:
    url: str
    stop: asyncio.Event


@asynccontextmanager
async def serve_fake_ingest() -> AsyncIterator[FakeIngest]:
    """Serve a fake ingest that answers with the requested action and the key."""

    async def act(request: Request) -> Response:
        action = request.path_params["action"]
        echo = {"action": action, "key": request.headers.get("authorization")}
        return JsonResponse(echo, status_code=200 if action == "cancel" else 409)

    port, stop = free_port(), asyncio.Event()
    application = Starlette(
        routes=[Route("/api/blog-generation/{job:uuid}/{action}", act, methods=["POST"])]
    )
    listener = shared_http.open_listener("127.0.0.1", port)
    serving = asyncio.create_task(shared_http.serve_http(application, listener, stop))
    try:
        yield FakeIngest(f"http://127.0.0.1:{port}", stop)
    finally:
        stop.set()
        await serving


async def test_restarted_process_refuses_until_numbers_are_known(
    backend: Backend, folder: Path
) -> None:
    """Reports start only after the new process has answered 503, so it must answer 503 first."""
    refused = asyncio.Event()

    async def report_all(stop: asyncio.Event) -> None:
        await refused.wait()
        while not stop.is_set():
            now = datetime.now(UTC)
            await backend.publish(WORKERS, "w1", make_worker_report("w1", at=now))
            await backend.publish(WORKERS, "s", make_scheduler_report(4, at=now))
            await asyncio.sleep(0.5)  # the interval of real reports

    port = free_port()
    async with start_metrics(backend, folder, METRICS_PORT=str(port)) as first:
        await publish_job_events(backend, range(10))
        await eventually(partial(first.has_counted, {"DONE": 10}))
        await first.kill()
    checking = asyncio.create_task(check_first_answers(first.url, refused))
    async with running_service(report_all), start_metrics(backend, folder, METRICS_PORT=str(port)):
        await asyncio.wait_for(checking, 60)


async def check_first_answers(url: str, refused: asyncio.Event) -> None:
    """Assert until the process is ready that every answer is either 503 or true."""
    async with httpx.AsyncClient(base_url=url) as http:
        try:
            await _check_until_ready(http, refused)
        finally:
            refused.set()  # lets the reports start after a failure too


async def _check_until_ready(http: httpx.AsyncClient, refused: asyncio.Event) -> None:
    while True:
        try:
            live, ready = await http.get("/livez"), await http.get("/readyz")
            answers = [
                await http.get(path)
                for path in ("/metrics", "/api/overview", "/metrics?format=prometheus")
            ]
        except httpx.TransportError:
            await asyncio.sleep(0.02)  # not listening yet
            continue
        assert live.status_code == 200
        for answer, is_true in zip(
            (ready, *answers), (is_ready, has_the_queue, has_all, has_the_worker), strict=True
        ):
            assert is_true(answer) if answer.is_success else is_retry_later(answer), answer.text
        if ready.is_success:
            assert refused.is_set(), "ready before any report"
            assert all(answer.is_success for answer in answers)
            return
        refused.set()


def is_ready(answer: httpx.Response) -> bool:
    return bool(answer.json() == {"status": "ready"})


def has_the_queue(answer: httpx.Response) -> bool:
    return bool(answer.json()["blog_queue_size"] == 4)


def has_all(answer: httpx.Response) -> bool:
    overview = answer.json()
    return bool((overview["pending"], overview["workers"], overview["jobs"]["DONE"]) == (4, 1, 10))


def has_the_worker(answer: httpx.Response) -> bool:
    return prometheus_text.read(answer.text)["blogstream_workers"].value() == 1


def is_retry_later(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_page_is_served_with_strict_security_policy(backend: Backend, folder: Path) -> None:
    async with start_metrics(backend, folder) as running:
        page = await running.http.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert '<script type="module" src="/static/page.js">' in page.text
        for path in ("/static/page.js", "/static/page.css", "/health", "/livez"):
            assert (await running.http.get(path)).status_code == 200
        assert (await running.http.get("/static/../app.py")).status_code == 404
    assert running.process.returncode == 0
