"""ingest while PostgreSQL, Kafka or the metrics service is unavailable."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sandbox.servers import kafka as kafka_server
from sandbox.system.home import free_port
from services.ingest import service
from services.ingest.settings import IngestSettings
from shared.domain.errors import Unavailable
from shared.http import server as http
from shared.kafka.topics import REQUESTS
from shared.runtime.postgres import open_pool, retry_while_unavailable
from shared.runtime.settings import PostgresSettings
from tests.support.backend import Backend, database_frozen, open_backend, running_service
from tests.support.eventually import eventually
from tests.support.ingest import GOOD, PATH, PROBLEM, Ingest, start_ingest


@pytest.fixture
async def ingest(backend: Backend, database: str, tmp_path: Path) -> AsyncIterator[Ingest]:
    async with start_ingest(backend, database, tmp_path) as running:
        yield running


async def test_requests_are_accepted_without_postgresql(ingest: Ingest, postgres: str) -> None:
    """The server refuses every connection to this database."""
    assert (await ingest.post(GOOD)).status_code == 201
    name = await ingest.backend.database.fetchval("SELECT current_database()")
    async with _refusing_connections(postgres, str(name)):
        answer = await ingest.post(GOOD)
        assert answer.status_code == 201
        read = await ingest.get(f"{PATH}/{answer.json()['id']}")
        assert (read.status_code, read.headers["content-type"]) == (503, PROBLEM)
        assert read.headers["retry-after"]
        assert (
            await ingest.post(GOOD, headers={"Authorization": "Bearer sk_live_unknown"})
        ).status_code == 401
        ready = await ingest.http.get("/readyz")
        assert (ready.status_code, ready.json()["errors"][0]["field"]) == (503, "PostgreSQL")
        assert (await ingest.http.get("/health")).status_code == 200
    await eventually(ingest.ready)
    assert len(await ingest.backend.read_records(REQUESTS)) == 2


async def test_deadlines_hold_while_postgresql_is_silent(ingest: Ingest, postgres: str) -> None:
    """The server's processes are stopped in the middle of queries."""
    known, unknown = ({"Authorization": f"Bearer {key}"} for key in (ingest.key, "sk_live_unknown"))
    async with database_frozen(postgres), asyncio.timeout(15):
        ready, bulk, unauthenticated, read = await asyncio.gather(
            ingest.http.get("/readyz", timeout=15),
            ingest.http.post(f"{PATH}/bulk", json=[GOOD], headers=known, timeout=15),
            ingest.post(GOOD, headers=unknown, timeout=15),
            ingest.http.get(PATH, headers=known, timeout=15),
        )
    assert (ready.status_code, bulk.status_code, unauthenticated.status_code, read.status_code) == (
        503,
        201,
        401,
        503,
    )
    assert ready.json()["errors"][0]["field"] == "PostgreSQL"
    await eventually(ingest.ready)


async def test_cancelled_write_ends_while_postgresql_is_silent(
    database: str, postgres: str
) -> None:
    """`retry_while_unavailable` must stop with the process."""
    pool = await open_pool(PostgresSettings(database_url=SecretStr(database)), name="given-up")
    try:
        await pool.fetchval("SELECT 1")
        async with database_frozen(postgres):
            writing = asyncio.create_task(retry_while_unavailable(lambda: pool.execute("SELECT 1")))
            await eventually(lambda: pool.get_idle_size() == 0)
            writing.cancel()
            await asyncio.wait({writing}, timeout=10)
            assert writing.cancelled()
        assert await pool.fetchval("SELECT 1") == 1
    finally:
        await pool.close()


@asynccontextmanager
async def _refusing_connections(postgres: str, name: str) -> AsyncIterator[None]:
    server = await asyncpg.connect(postgres)
    try:
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = $1 AND application_name <> ''",
            name,
        )
        yield
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await server.close()


class OwnBroker:
    """A broker for one test, which may stop it."""

    def __init__(self, folder: Path) -> None:
        self._spec, self.bootstrap = kafka_server.prepare_server(folder, print)
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._spec.argv, env=dict(self._spec.env), stdout=log, stderr=log
            )

    async def ready(self) -> None:
        assert self._spec.ready_check is not None
        await eventually(self._spec.ready_check, timeout=60)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[OwnBroker]:
    broker = OwnBroker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.kill()


async def test_without_kafka_requests_return_503(
    broker: OwnBroker, topic_prefix: str, database: str, tmp_path: Path
) -> None:
    """The broker is silent, then down; every request with a 201 is on the topic at the end."""
    await broker.ready()
    async with open_backend(broker.bootstrap, topic_prefix, database) as backend:
        async with start_ingest(backend, database, tmp_path, publish_timeout_s=0.5) as ingest:
            accepted = [await _submit(ingest)]
            broker.signal(signal.SIGSTOP)
            refusals = await asyncio.gather(*(ingest.post(GOOD) for _ in range(20)))
            assert {(answer.status_code, answer.headers["retry-after"]) for answer in refusals} == {
                (503, "2")
            }
            assert {answer.headers["content-type"] for answer in refusals} == {PROBLEM}
            bulk = await ingest.http.post(
                f"{PATH}/bulk", json=[GOOD] * 201, headers={"Authorization": f"Bearer {ingest.key}"}
            )
            unknown = {answer.json()["id"] for answer in refusals} | set(bulk.json()["unknown"])
            assert (bulk.status_code, bulk.json()["taken"], len(unknown)) == (503, 0, 220), (
                "the 201st was not sent"
            )
            assert all(
                "may have been accepted" in answer.json()["detail"] for answer in (*refusals, bulk)
            )
            broker.signal(signal.SIGCONT)
            accepted.append(await eventually(partial(_submit, ingest)))
            broker.kill()
            assert (await ingest.post(GOOD)).status_code == 503
            ready = await ingest.http.get("/readyz")
            assert (ready.status_code, ready.json()["errors"][0]["field"]) == (503, "Kafka")
            assert (await ingest.http.get("/livez")).status_code == 200
            broker.start()
            await broker.ready()
            accepted.append(await eventually(partial(_submit, ingest)))
            await eventually(ingest.ready)
        on_topic = {
            str(getattr(message, "id", "")) for _, message in await backend.read_records(REQUESTS)
        }
        assert set(accepted) <= on_topic
        assert unknown & on_topic, "the broker had taken requests without acknowledging them"


async def _submit(ingest: Ingest) -> str:
    """POST a request; return its id, or an empty text unless it was accepted."""
    answer = await ingest.post(GOOD)
    return str(answer.json()["id"]) if answer.status_code == 201 else ""


async def test_service_stops_while_kafka_is_silent(
    broker: OwnBroker, topic_prefix: str, database: str, tmp_path: Path
) -> None:
    await broker.ready()
    async with open_backend(broker.bootstrap, topic_prefix, database) as backend:
        async with start_ingest(backend, database, tmp_path, publish_timeout_s=0.2) as ingest:
            await _submit(ingest)
            broker.signal(signal.SIGSTOP)
            assert (await ingest.post(GOOD)).status_code == 503
        broker.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        (
            {"kafka_bootstrap_servers": "127.0.0.1:1"},
            "Kafka at 127.0.0.1:1 did not answer within 0.3 s",
        ),
        (
            {"database_url": "postgresql://u:secret@127.0.0.1:1/none"},
            "PostgreSQL at 127.0.0.1:1/none did not answer",
        ),
    ],
)
async def test_start_without_dependency_fails_in_one_line(
    kafka: str, database: str, topic_prefix: str, missing: dict[str, Any], line: str
) -> None:
    chosen: dict[str, Any] = {
        "kafka_bootstrap_servers": kafka,
        "kafka_topic_prefix": topic_prefix,
        "database_url": database,
        "port": free_port(),
        "startup_deadline_s": 0.3,
    }
    with pytest.raises(Unavailable) as end:
        await service.run_ingest(
            IngestSettings(**(chosen | missing)), asyncio.Event(), name="ingest-test"
        )
    assert str(end.value).startswith(line)
    assert "secret" not in str(end.value)


async def _metrics(request: Request) -> Response:
    text = f"{request.url.path}?{request.url.query} for {request.headers['accept']}"
    return PlainTextResponse(
        text, headers={"Content-Type": "text/plain; version=0.0.4"}, status_code=203
    )


async def test_metrics_are_relayed_unchanged_or_502(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    port = free_port()
    stub = Starlette(
        routes=[Route("/metrics", _metrics), Route("/api/rate-limiter/stats", _metrics)]
    )
    async with start_ingest(
        backend, database, tmp_path, metrics_url=f"http://127.0.0.1:{port}/"
    ) as ingest:
        async with running_service(
            partial(http.serve_http, stub, http.open_listener("127.0.0.1", port))
        ):
            for path in ("/metrics", "/api/rate-limiter/stats"):
                answer = await ingest.http.get(
                    f"{path}?format=prometheus&x=%C3%A4", headers={"Accept": "text/plain"}
                )
                assert (answer.status_code, answer.text) == (
                    203,
                    f"{path}?format=prometheus&x=%C3%A4 for text/plain",
                )
                assert answer.headers["content-type"] == "text/plain; version=0.0.4"
        answer = await ingest.http.get("/metrics")
        assert (answer.status_code, answer.headers["content-type"]) == (502, PROBLEM)
