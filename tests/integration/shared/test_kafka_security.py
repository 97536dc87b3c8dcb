"""TLS, users and certificates on a real broker: clients connect, or report the refusal."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiokafka.structs import TopicPartition

from admin import consumer_groups
from shared.kafka import clients
from shared.kafka.topics import GENERATOR_GROUP, METRICS_GROUP, REQUESTS
from tests.support.backend import Backend, make_request, open_backend
from tests.support.eventually import eventually
from tests.support.ingest import GOOD, start_ingest
from tests.support.metrics_service import publish_job_events, start_metrics
from tests.support.processes import environment
from tests.support.secured_kafka import PASSWORD, SecuredKafka


def variables(settings: dict[str, str]) -> dict[str, str]:
    return {name.upper(): value for name, value in settings.items()}


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "certificate"])
async def test_every_client_connects_with_each_mechanism(
    broker: SecuredKafka, topic_prefix: str, database: str, way: str
) -> None:
    by_certificate = way == "certificate"
    security = broker.certificate_settings() if by_certificate else broker.password_settings(way)
    servers = broker.certificate_address if by_certificate else broker.password_address
    async with open_backend(servers, topic_prefix, database, **security) as backend:
        request = make_request()
        await backend.submit(request)
        assert await backend.read_records(REQUESTS) == [(request.store, request)]
        names = clients.namespace(backend.settings)
        group, partition = names.group(GENERATOR_GROUP), TopicPartition(names.topic(REQUESTS), 0)
        async with clients.create_consumer(backend.settings, group_id=group) as consumer:
            consumer.assign([partition])
            await clients.commit_offsets(consumer, {partition: 7}, within_s=20)
        assert (await clients.fetch_group_offsets(backend.settings, group))[partition].offset == 7
        assert (await consumer_groups.fetch_group_members(backend.settings, [group]))[group] == []


async def test_ingest_accepts_requests_over_tls(
    secured_backend: Backend, broker: SecuredKafka, database: str, tmp_path: Path
) -> None:
    async with start_ingest(
        secured_backend, database, tmp_path, **broker.password_settings()
    ) as ingest:  # waits for /readyz
        answer = await ingest.post(GOOD)
        assert answer.status_code == 201, answer.text
        ((_, message),) = await secured_backend.read_records(REQUESTS)
        assert str(getattr(message, "id", None)) == answer.json()["id"]


@pytest.mark.parametrize("way", ["user", "certificate"])
async def test_metrics_counts_over_tls(
    secured_backend: Backend, broker: SecuredKafka, tmp_path: Path, way: str
) -> None:
    security = {"user": broker.password_settings(), "certificate": broker.certificate_settings()}[
        way
    ]
    known = variables(security) | {
        "KAFKA_BOOTSTRAP_SERVERS": {
            "user": broker.password_address,
            "certificate": broker.certificate_address,
        }[way]
    }
    async with start_metrics(secured_backend, tmp_path / "tables", **known) as running:
        await publish_job_events(secured_backend, range(5))
        await eventually(partial(running.has_counted, {"DONE": 5}))
        group = clients.namespace(secured_backend.settings).group(METRICS_GROUP)
        assert (
            len(
                (await consumer_groups.fetch_group_members(secured_backend.settings, [group]))[
                    group
                ]
            )
            == 1
        )


@asynccontextmanager
async def _run_to_exit(service: str, known: dict[str, str]) -> AsyncIterator[tuple[int, str]]:
    """Run a service that cannot start. Yields its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{service}", env=known, stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    yield process.returncode, output.decode()


@pytest.mark.parametrize(
    ("service", "wrong", "line"),
    [
        ("metrics", {"kafka_sasl_password": "not-it"}, "refuses the user blog"),
        (
            "ingest",
            {"kafka_sasl_password": "not-it", "kafka_sasl_mechanism": "PLAIN"},
            "refuses the user blog",
        ),
        ("scheduler", {"kafka_ssl_ca_file": "other authority"}, "check KAFKA_SSL_CA_FILE"),
        (
            "metrics",
            {"kafka_ssl_ca_file": "/nowhere.pem"},
            "KAFKA_SSL_CA_FILE /nowhere.pem cannot be used",
        ),
    ],
)
async def test_refused_service_logs_one_line_and_exits_with_3(
    secured_backend: Backend,
    broker: SecuredKafka,
    database: str,
    service: str,
    wrong: dict[str, str],
    line: str,
) -> None:
    chosen = broker.password_settings() | {
        name: str(broker.unknown_authority) if v == "other authority" else v
        for name, v in wrong.items()
    }
    async with _run_to_exit(
        service, environment(secured_backend, database) | variables(chosen)
    ) as (
        code,
        output,
    ):
        assert code == 3, output
        errors = [entry for entry in output.splitlines() if '"level":"error"' in entry]
        assert len(errors) == 1, output
        assert line in errors[0]
        assert "not-it" not in output
        assert PASSWORD not in output


async def test_client_without_the_required_certificate_is_refused(
    secured_backend: Backend, broker: SecuredKafka, database: str
) -> None:
    anonymous = broker.certificate_settings() | {
        "kafka_ssl_cert_file": "",
        "kafka_bootstrap_servers": broker.certificate_address,
        "startup_deadline_s": "2",
    }
    async with _run_to_exit(
        "metrics", environment(secured_backend, database) | variables(anonymous)
    ) as (
        code,
        output,
    ):
        assert code == 3, output
        assert "KAFKA_SECURITY_PROTOCOL" in output.splitlines()[-1]
