"""Planted secrets never reach the logs of failing services at the highest log level."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from sandbox.system.home import free_port
from shared.domain.api_keys import create_key, create_operator_key
from shared.domain.messages import Message
from shared.kafka.topics import REQUESTS
from tests.support.backend import Backend, database_unavailable
from tests.support.eventually import eventually
from tests.support.fake_providers import StandIns
from tests.support.ingest import GOOD, PATH
from tests.support.processes import environment
from tests.support.secured_kafka import PASSWORD, SecuredKafka

PROVIDERS = {
    "OPENAI_API_KEY": "planted/openai key?0123",
    "REPLICATE_API_TOKEN": "planted-replicate-0123",
}
WRONG = "sk_live_planted-wrong-key-0123"
SIGNING = "whsec_cGxhbnRlZC1zaWduaW5nLXNlY3JldA=="
CHAT = "planted-chat-0123"


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    log: Path
    http: httpx.AsyncClient


@asynccontextmanager
async def start_process(
    name: str, folder: Path, port: int, variables: dict[str, str]
) -> AsyncIterator[ServiceProcess]:
    """Run a service as an operator does, and stop it at the end of the block."""
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"services.{name}", env=variables, stdout=file, stderr=file
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            yield ServiceProcess(log, http)
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 60)


async def is_ready(service: ServiceProcess) -> bool:
    try:
        return (await service.http.get("/readyz")).is_success
    except httpx.HTTPError:
        return False


def log_entries(service: ServiceProcess) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")
    ]


@pytest.fixture
def variables(
    secured_backend: Backend,
    broker: SecuredKafka,
    database: str,
    standins: StandIns,
    tmp_path: Path,
) -> dict[str, str]:
    security = {name.upper(): value for name, value in broker.password_settings("PLAIN").items()}
    ports = {"PORT": str(free_port()), "METRICS_PORT": str(free_port())}
    return (
        environment(secured_backend, database)
        | security
        | ports
        | PROVIDERS
        | {
            "LOG_LEVEL": "4",
            "OPENAI_BASE_URL": f"{standins.openai.url}/v1",
            "REPLICATE_BASE_URL": standins.replicate.url,
            "IMAGE_DIR": str(tmp_path / "images"),
            "METRICS_DIR": str(tmp_path / "tables"),
            "STANDIN": "true",
            "ALERT_WEBHOOK_URL": f"http://127.0.0.1:1/{CHAT}",
            "METRICS_URL": f"http://127.0.0.1:{ports['METRICS_PORT']}",
            "INGEST_URL": f"http://user:{CHAT}@127.0.0.1:{ports['PORT']}",
            "OPENAI_TPM": "90000000",
            "DRAIN_S": "5",
        }
    )


async def send_invalid_requests(http: httpx.AsyncClient, key: str, operator: str) -> None:
    for secret in (key, operator, WRONG, SIGNING):
        bearer = {"Authorization": f"Bearer {secret}"}
        for headers in (
            bearer,
            {"Authorization": secret},
            {"Authorization": f"Basic {secret}"},
            {"Cookie": secret},
        ):
            await http.get(PATH, headers=headers)
        named = {
            "X-Request-Id": secret,
            "Idempotency-Key": secret,
            "traceparent": secret,
            "User-Agent": secret,
        }
        await http.post(PATH, json=GOOD, headers=bearer | named)
        await http.post(
            f"{PATH}/bulk",
            json=[GOOD | {"sourceId": secret, "nope": secret}],
            headers=bearer | named,
        )
        await http.post(
            PATH,
            content=f'{{"sourceType": {secret}',
            headers=bearer | {"Content-Type": "application/json"},
        )
        await http.post(
            PATH, json={"webhookUrl": f"https://{secret}@hooks/{secret}", secret: 1}, headers=bearer
        )
        await http.get(f"{PATH}/{secret}?api_key={secret}&token={secret}", headers=bearer)
        await http.get(f"/metrics?format={secret}&token={quote(secret)}", headers=bearer)


async def count_jobs(backend: Backend, wanted: str) -> int:
    query = "SELECT count(*) FROM blog_generations WHERE status = $1"
    return int(await backend.database.fetchval(query, wanted))


async def test_no_service_logs_a_secret(
    secured_backend: Backend,
    database: str,
    postgres: str,
    standins: StandIns,
    variables: dict[str, str],
    tmp_path: Path,
) -> None:
    backend, ports = secured_backend, {"ingest": "PORT", "metrics": "METRICS_PORT"}
    key, operator = (
        await create_key(backend.database, "shop"),
        await create_operator_key(backend.database, "amy"),
    )
    services: dict[str, ServiceProcess] = {}
    async with AsyncExitStack() as running:
        for name in ("ingest", "metrics", "scheduler", "generator"):
            port = int(variables[ports.get(name, "PORT")])
            services[name] = await running.enter_async_context(
                start_process(name, tmp_path, port, variables)
            )
        for name in ports:
            await eventually(partial(is_ready, services[name]), timeout=60)
        standins.openai.script(
            {"kind": "500", "step": "outline"}, {"kind": "refusal", "step": "outline", "count": 2}
        )
        await send_invalid_requests(services["ingest"].http, key, operator)
        await send_invalid_requests(services["metrics"].http, key, operator)
        await services["metrics"].http.post(
            f"/api/jobs/{WRONG}/retry", headers={"Authorization": f"Bearer {operator}"}
        )
        await eventually(lambda: count_jobs(backend, "FAILED"), timeout=60, what="the refused call")
        async with database_unavailable(postgres, database, "ingest"):
            with_key = {"Authorization": f"Bearer {key}"}
            assert (await services["ingest"].http.get(PATH, headers=with_key)).status_code == 503
            await services["ingest"].http.get(PATH, headers={"Authorization": f"Bearer {WRONG}"})
    password = urlsplit(database).password
    assert password is not None
    planted = {key, operator, WRONG, SIGNING, CHAT, PASSWORD, password, *PROVIDERS.values()}
    for name, service in services.items():
        text = service.log.read_text()
        assert {entry["level"] for entry in log_entries(service)} >= {"debug", "info"}
        for secret in planted:
            for form in (secret, quote(secret, safe=""), secret.removeprefix("sk_live_")):
                lines = [line for line in text.splitlines() if form in line]
                assert not lines, f"{name} logs {form}: {lines[0][:500]}"
    assert "token=[redacted]" in services["ingest"].log.read_text(), (
        "the planted secrets no longer reach the redaction"
    )
    kept: list[tuple[str | None, Message | bytes | None]] = await backend.read_records(REQUESTS)
    assert kept, "no request was accepted"
